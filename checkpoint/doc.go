// Package checkpoint turns a checkpoint of any format into one Index: what
// tensors there are, of what type and shape, at which bytes of which file.
// Every claim of a header is checked against the file's real size before it
// is believed, and no tensor byte is read. The formats are folders below;
// shard plans from an Index and loader reads by it.
package checkpoint

// Package rulesfile reads the layout rules of a user's file for shard.Options.
// The commands read by it; nothing in it knows tensors.
package rulesfile

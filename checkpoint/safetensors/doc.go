// Package safetensors reads and writes the safetensors container: the header
// of a file, the index of a sharded checkpoint, and whole files. It reads no
// tensor byte, believes no claim of a header before it is checked against the
// file's size, and accepts and refuses what the format's reference
// implementation does (huggingface/safetensors 0.8, the verdicts of which are
// in the test data). checkpoint, its synth and exporters call it.
//
// The format: 8 bytes little-endian N, then N bytes of JSON, then the tensors'
// bytes, without holes, overlaps or a rest. The JSON maps tensor names to
// {"dtype", "shape", "data_offsets": [begin, end)}, relative to the end of the
// header, and "__metadata__" to strings.
// See https://huggingface.co/docs/safetensors.
package safetensors

// Package gguf reads and writes the GGUF container that llama.cpp stores models
// in: it reads versions 2 and 3 and writes 3. Read reads the header only,
// believes no count or length before it is checked against the file's size, and
// accepts and refuses what libggml does when it loads a file (the verdicts of
// which are in the test data). Besides it refuses element counts that overflow,
// and tensor names that are not UTF-8 or have a NUL, which no JSON or C text
// would give back. A Writer writes what Read takes: the same input gives the
// same bytes. checkpoint reads, model writes.
//
// The format, little-endian: "GGUF", version u32, tensor count u64, key count
// u64; the keys, each a string, a type u32 and a value; the tensors, each a
// name, dimension count u32, dimensions u64 (the fastest first), type u32 and
// offset u64; then, from the next multiple of general.alignment (32 unless
// said), the tensors' bytes, each padded to the alignment, in order. A string
// is a length u64 and its bytes; an array an element type u32, a length u64
// and its elements.
// See https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
package gguf

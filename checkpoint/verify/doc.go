// Package verify reads every byte of a checkpoint and says what is wrong with
// it: bytes that differ from the checkpoint's digests or from the SHA-256 that
// a hub gives for a file, and values that are no numbers. The command calls
// it.
package verify

package model

import "unsafe"

// littleEndian sees values as the bytes they have in memory, which on every
// machine that Gantry runs on are little-endian.
func littleEndian(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}

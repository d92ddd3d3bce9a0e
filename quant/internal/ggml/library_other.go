//go:build !linux || !cgo

package ggml

import "errors"

// Library is libggml, which is only loaded on Linux, by cgo.
type Library struct{}

// Open fails.
func Open(string) (*Library, error) {
	return nil, errors.New("ggml: libggml is only loaded on Linux, by a build with cgo")
}

// Reference returns nil.
func (*Library) Reference(string) Quantizer { return nil }

// SIMD returns nil.
func (*Library) SIMD(string) Quantizer { return nil }

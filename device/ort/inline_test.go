package ort

import (
	"errors"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// TestFullMemoryHasItsClass: ONNX Runtime has no code for it.
func TestFullMemoryHasItsClass(t *testing.T) {
	for text, want := range map[string]recovery.Class{
		"Exception during initialization:\n  std::bad_alloc":           recovery.OutOfCapacity,
		"CUDA failure 2: out of memory ; GPU=0":                        recovery.OutOfCapacity,
		"bfc_arena.cc: Failed to allocate memory for requested buffer": recovery.OutOfCapacity,
		"Load model from memory failed:\nProtobuf parsing failed.":     recovery.Internal,
	} {
		if got := inLine(errors.New(text)); recovery.ClassOf(got) != want {
			t.Errorf("%q is class %s, want %s", text, recovery.ClassOf(got), want)
		}
	}
}

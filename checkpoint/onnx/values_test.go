package onnx

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// values reads a model through a file and decodes its coded tensors.
func values(t *testing.T, m message) ([]byte, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, m, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := source.Open(context.Background(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r, err := src.Open(context.Background(), "model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h, err := Read(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return h.Values(context.Background(), r)
}

// TestValues decodes varints to what raw data would be.
func TestValues(t *testing.T) {
	got, err := values(t, model(
		onnxtest.Tensor("shape", 7, 3).Varints(7, 1, -1, 1<<40),
		onnxtest.Tensor("small", 6, 2).Varints(5, -2, 1<<31-1),
		onnxtest.Tensor("half", 10, 2).Varints(5, 0x3c00, 0xbc00),
		onnxtest.Tensor("bytes", 2, 3).Varints(5, 0, 255, 127),
		onnxtest.Tensor("signed", 3, 2).Varints(5, -128, 127),
		onnxtest.Tensor("nibbles", 22, 3).Varints(5, 0x21, 0xf3), // the last is filled up
		onnxtest.Tensor("unsigned", 12, 1).Varints(11, 1<<32-1),
		onnxtest.Tensor("largest", 13, 1).Varints(11, -1),
		onnxtest.Tensor("none", 7, 0).Varints(7),
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{
		1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 1, 0, 0,
		254, 255, 255, 255, 255, 255, 255, 127,
		0, 0x3c, 0, 0xbc,
		0, 255, 127,
		128, 127,
		0x21, 0xf3,
		255, 255, 255, 255,
		255, 255, 255, 255, 255, 255, 255, 255,
	}
	if !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

// TestValuesRefused finds what only the numbers themselves tell.
func TestValuesRefused(t *testing.T) {
	for says, m := range map[string]message{
		"more values than its shape": onnxtest.Tensor("t", 7, 2).Varints(7, 1, 2, 3),
		"too early":                  onnxtest.Tensor("t", 7, 2).Varints(7, 1000),
		"256 does not fit 8 bits":    onnxtest.Tensor("t", 2, 1).Varints(5, 256),
		"-129 does not fit 8 bits":   onnxtest.Tensor("t", 3, 1).Varints(5, -129),
		"65536 does not fit 16":      onnxtest.Tensor("t", 10, 1).Varints(5, 65536),
		"4294967296 does not fit 32": onnxtest.Tensor("t", 12, 1).Varints(11, 1<<32),
		"bytes too early":            onnxtest.Tensor("t", 7, 2).Bytes(7, []byte{1, 0x80}),
	} {
		_, err := values(t, model(m))
		if recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), `model.onnx tensor "t"`) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

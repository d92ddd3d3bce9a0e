package checkpoint_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

func writeModel(t testing.TB, path string, nodes []onnxtest.Message, initializers ...onnxtest.Message) {
	t.Helper()
	writeText(t, path, string(onnxtest.Model(onnxtest.Graph(initializers, nodes...))))
}

// TestONNXStories finds in the ONNX form of a real model what its safetensors
// hold, without reading a weight.
func TestONNXStories(t *testing.T) {
	dir := filepath.Join(testdata(t), "stories260K")
	want, err := open(t, filepath.Join(dir, "hf-f32"))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]checkpoint.Tensor{}
	for _, x := range want.Tensors {
		byName[x.Name] = x
	}
	for _, uri := range []string{"onnx-external", "onnx-external/model.onnx"} {
		src, err := source.Open(context.Background(), filepath.Join(dir, uri), source.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		var c source.Counter
		ix, err := checkpoint.Open(context.Background(), source.Count(src, &c))
		if err != nil {
			t.Fatal(err)
		}
		if ix.Format != checkpoint.FormatONNX || ix.Architecture.Name != "llama" || ix.Architecture.Layers != 5 || ix.Architecture.Parameters != 260_032 || len(ix.Tensors) != 47 {
			t.Errorf("%s: %s, %+v, %d tensors", uri, ix.Format, ix.Architecture, len(ix.Tensors))
		}
		for _, x := range ix.Tensors {
			w := byName[x.Name]
			if x.DType != w.DType || !cmp.Equal(x.Shape, w.Shape) || x.Bytes != w.Bytes || x.Transposed || ix.Files[x.File].Name != "weights.bin" {
				t.Errorf("%s: %+v, want %+v", uri, x, w)
			}
		}
		if c.Bytes.Load() != ix.Files[0].Size {
			t.Errorf("%s: %d bytes read, the model's file has %d", uri, c.Bytes.Load(), ix.Files[0].Size)
		}
	}
}

// TestONNXFiles puts tensors into all places that a model has for them.
func TestONNXFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(dir, "data", "w.bin"), "0123456789abcdef")
	writeText(t, filepath.Join(dir, "config.json"), `{}`)
	writeModel(t, filepath.Join(dir, "model.onnx"), []onnxtest.Message{onnxtest.Node("MatMul", "y", "x", "second")},
		onnxtest.Tensor("second", 2, 2, 2).External("data/w.bin", 12, 4),
		onnxtest.Tensor("first", 2, 12).External("./data/w.bin", 0, 12),
		onnxtest.Tensor("shared", 2, 3).External("data/w.bin", 0, 3),
		onnxtest.Tensor("inline", 2, 3).Raw([]byte("abc")),
		onnxtest.Tensor("shape", 7, 2).Varints(7, 1, -1),
		onnxtest.Tensor("shape2", 6, 1).Varints(5, 3),
	)
	src, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		Name, File, Bytes string
		Transposed        bool
	}
	var got []place
	values := checkpoint.WithValues(src)
	for _, x := range ix.Tensors {
		r, err := values.Open(context.Background(), ix.Files[x.File].Name)
		if err != nil {
			t.Fatal(err)
		}
		if r.File() != ix.Files[x.File] {
			t.Errorf("%+v is opened as %+v", ix.Files[x.File], r.File())
		}
		b := make([]byte, x.Bytes)
		if err := errors.Join(r.ReadAt(context.Background(), b, x.Offset), r.Close()); err != nil {
			t.Fatal(err)
		}
		got = append(got, place{x.Name, r.File().Name, string(b), x.Transposed})
	}
	want := []place{
		{"inline", "model.onnx", "abc", false},
		{"first", "data/w.bin", "0123456789ab", false},
		{"shared", "data/w.bin", "012", false},
		{"second", "data/w.bin", "cdef", true},
		{"shape", "model.onnx/values", "\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", false},
		{"shape2", "model.onnx/values", "\x03\x00\x00\x00", false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r, err := values.Open(context.Background(), "model.onnx/values")
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{-1, 20, 21} {
		if err := r.ReadAt(context.Background(), make([]byte, 1), off); recovery.ClassOf(err) != recovery.SourceChanged {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if _, err := values.Open(context.Background(), "other.onnx/values"); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("values of no model: %v", err)
	}
}

// TestONNXExternalRefused keeps external data inside the folder and inside its
// files.
func TestONNXExternalRefused(t *testing.T) {
	u8 := func(location string, offset, length int64) onnxtest.Message {
		return onnxtest.Tensor("t", 2, 4).External(location, offset, length)
	}
	parent := t.TempDir()
	dir := filepath.Join(parent, "model")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink("../secret", filepath.Join(dir, "link")), os.Symlink(parent, filepath.Join(dir, "up"))); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(parent, "secret"), "secret")
	writeText(t, filepath.Join(dir, "w"), "12345678")
	for name, c := range map[string]struct {
		tensor onnxtest.Message
		says   string
	}{
		"inside":              {tensor: u8("w", 4, 4)},
		"absolute":            {u8(filepath.Join(parent, "secret"), 0, 4), "inside the model's folder"},
		"above":               {u8("../secret", 0, 4), "inside the model's folder"},
		"inside, but up":      {u8("a/../w", 0, 4), "inside the model's folder"},
		"a link out":          {u8("link", 0, 4), "link"},
		"a folder's link out": {u8("up/secret", 0, 4), "up/secret"},
		"not there":           {u8("x", 0, 4), "not there"},
		"a folder":            {u8("up", 0, 4), "up"},
		"past the end":        {u8("w", 5, 4), "truncated"},
		"begins at the end":   {u8("w", 8, 4), "truncated"},
		"far past the end":    {u8("w", 1<<62, 4), "truncated"},
		"overflows":           {u8("w", 1<<63-1, 4), "offset"},
		"memory's address":    {u8("*/_ORT_MEM_ADDR_/*", 0, 4), "not there"},
	} {
		t.Run(name, func(t *testing.T) {
			writeModel(t, filepath.Join(dir, "model.onnx"), nil, c.tensor)
			_, err := open(t, dir)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want a refusal that says %q", err, c.says)
			}
		})
	}
}

package safetensors

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// TestLayout writes the headers of any tensors and reads them back.
func TestLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfDistinct(rapid.String(), func(s string) string { return s }).Draw(t, "names")
		var tensors []Tensor
		for _, n := range names {
			tensors = append(tensors, Tensor{
				Name:  n,
				DType: rapid.SampledFrom([]dtype.Type{dtype.U8, dtype.BF16, dtype.F32, dtype.I64}).Draw(t, "type"),
				Shape: rapid.SliceOfN(rapid.Int64Range(0, 9), 0, 4).Draw(t, "shape"),
			})
		}
		metadata := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "metadata")
		placed, head, size, err := Layout(tensors, metadata)
		if err != nil {
			t.Fatal(err)
		}
		if len(head)%headerAlign != 0 {
			t.Errorf("the first tensor lies at %d", len(head))
		}
		if n := binary.LittleEndian.Uint64(head); n != uint64(len(head)-prefixBytes) {
			t.Errorf("the header has %d bytes and claims %d", len(head)-prefixBytes, n)
		}
		h, err := Parse(head[prefixBytes:], size)
		if err != nil {
			t.Fatal(err)
		}
		byName := map[string]Tensor{}
		for _, x := range h.Tensors {
			byName[x.Name] = x
		}
		for _, x := range placed {
			if diff := cmp.Diff(x, byName[x.Name], cmp.Comparer(func(a, b []int64) bool { return cmp.Equal(append([]int64{}, a...), append([]int64{}, b...)) })); diff != "" {
				t.Error(diff)
			}
		}
		if len(byName) != len(placed) || len(metadata) > 0 && !cmp.Equal(metadata, h.Metadata) {
			t.Errorf("wrote %d tensors and %v, read %d and %v", len(placed), metadata, len(byName), h.Metadata)
		}
	})
}

func TestLayoutRefuses(t *testing.T) {
	for name, tensors := range map[string][]Tensor{
		"reserved name":  {{Name: metadataKey, DType: dtype.U8}},
		"twice":          {{Name: "a", DType: dtype.U8}, {Name: "a", DType: dtype.U8}},
		"bad UTF-8":      {{Name: "\xff", DType: dtype.U8}},
		"no type":        {{Name: "a"}},
		"negative":       {{Name: "a", DType: dtype.U8, Shape: []int64{-1}}},
		"overflow":       {{Name: "a", DType: dtype.F64, Shape: []int64{1 << 40, 1 << 40}}},
		"half a byte":    {{Name: "a", DType: dtype.F4, Shape: []int64{3}}},
		"sum overflows":  {{Name: "a", DType: dtype.U8, Shape: []int64{1 << 62}}, {Name: "b", DType: dtype.U8, Shape: []int64{1 << 62}}},
		"type out of it": {{Name: "a", DType: 250}},
	} {
		if _, _, _, err := Layout(tensors, nil); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: got %v, want a usage error", name, err)
		}
	}
}

// TestWriter writes a file back to front, and nothing has its name before.
func TestWriter(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.safetensors")
	w, err := Create(path, []Tensor{{Name: "a", DType: dtype.U8, Shape: []int64{3}}, {Name: "b", DType: dtype.F32}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		tensor int
		data   string
		off    int64
	}{{1, "wxyz", 0}, {0, "c", 2}, {0, "ab", 0}} {
		if err := w.WriteTensor(step.tensor, []byte(step.data), step.off); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{-1, 3, 4, 1 << 62} {
		if err := w.WriteTensor(0, []byte("x"), off); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("wrote outside of a tensor at %d: %v", off, err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file has its name before it is committed: %v", err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) != w.Size() || !bytes.HasSuffix(data, []byte("abcwxyz")) {
		t.Errorf("wrote %q, %v", data, err)
	}
	src, err := source.Open(context.Background(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r, err := src.Open(context.Background(), src.Entry())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h, err := Read(context.Background(), r)
	if err != nil || len(h.Tensors) != 2 || h.Tensors[1].Offset != w.Tensors()[1].Offset {
		t.Errorf("read %+v, %v; wrote %+v", h, err, w.Tensors())
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "x"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v behind (%v)", left, err)
	}
	if _, err := Create(filepath.Join(dir, "missing", "x"), nil, nil); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("no folder: %v", err)
	}
}

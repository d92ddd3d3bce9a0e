package gguf

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// value draws a value and returns it as an entry and as gguftest writes it.
func value(t *rapid.T, key string) (Entry, []byte) {
	switch rapid.IntRange(0, 16).Draw(t, "type") {
	case 0:
		return both(key, rapid.Uint8().Draw(t, "v"))
	case 1:
		return both(key, rapid.Int8().Draw(t, "v"))
	case 2:
		return both(key, rapid.Uint16().Draw(t, "v"))
	case 3:
		return both(key, rapid.Int16().Draw(t, "v"))
	case 4:
		return both(key, rapid.Uint32().Draw(t, "v"))
	case 5:
		return both(key, rapid.Int32().Draw(t, "v"))
	case 6:
		return both(key, rapid.Float32().Draw(t, "v"))
	case 7:
		return both(key, rapid.Bool().Draw(t, "v"))
	case 8:
		return both(key, rapid.String().Draw(t, "v"))
	case 9:
		return both(key, rapid.Uint64().Draw(t, "v"))
	case 10:
		return both(key, rapid.Int64().Draw(t, "v"))
	case 11:
		return both(key, rapid.Float64().Draw(t, "v"))
	case 12:
		return array2(key, rapid.SliceOfN(rapid.String(), 0, 40).Draw(t, "v"))
	case 13:
		return array2(key, rapid.SliceOfN(rapid.Uint8(), 0, 40).Draw(t, "v"))
	case 14:
		return array2(key, rapid.SliceOfN(rapid.Int32(), 0, 40).Draw(t, "v"))
	case 15:
		return array2(key, rapid.SliceOfN(rapid.Float32(), 0, 40).Draw(t, "v"))
	}
	return array2(key, rapid.SliceOfN(rapid.Bool(), 0, 40).Draw(t, "v"))
}

func both[T Scalar](key string, v T) (Entry, []byte) { return NewEntry(key, v), gguftest.KV(key, v) }

func array2[T Scalar](key string, v []T) (Entry, []byte) {
	return NewArray(key, v), gguftest.KV(key, v)
}

// tensor draws a tensor of any type that ggml has.
func tensor(t *rapid.T, name string) Tensor {
	has := slices.DeleteFunc(slices.Clone(types[:]), func(d dtype.Type) bool { return d == dtype.Invalid })
	x := Tensor{Name: name, DType: rapid.SampledFrom(has).Draw(t, "type")}
	block, _ := x.DType.Block()
	x.Shape = rapid.SliceOfN(rapid.Int64Range(1, 5), 0, MaxDimensions).Draw(t, "shape")
	if n := len(x.Shape); n > 0 {
		x.Shape[n-1] *= block
	} else if block > 1 {
		x.Shape = []int64{block}
	}
	return x
}

// TestWriterRoundTrip: a file of any metadata and tensors is what the test's
// own encoder writes, and is read as what was meant; its metadata, read whole
// and written again, is the same bytes.
func TestWriterRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(1, 20, MaxNameBytes)
		once := func(s string) string { return s }
		noNUL := text.Filter(func(s string) bool { return s != AlignmentKey && !strings.ContainsRune(s, 0) })
		var metadata []Entry
		var tensors []Tensor
		oracle := gguftest.File{Align: DefaultAlignment}
		for _, key := range rapid.SliceOfNDistinct(noNUL, 0, 8, once).Draw(t, "keys") {
			e, b := value(t, key)
			metadata, oracle.Keys = append(metadata, e), append(oracle.Keys, b)
		}
		if rapid.Bool().Draw(t, "aligned") {
			align := uint32(1) << rapid.IntRange(0, 12).Draw(t, "align")
			e, b := both(AlignmentKey, align)
			metadata, oracle.Keys, oracle.Align = append(metadata, e), append(oracle.Keys, b), int(align)
		}
		for _, name := range rapid.SliceOfNDistinct(noNUL, 0, 6, once).Draw(t, "names") {
			x := tensor(t, name)
			size, err := byteSize(x.DType, x.Shape)
			if err != nil {
				t.Fatal(err)
			}
			dims := []uint64{}
			for _, d := range slices.Backward(x.Shape) {
				dims = append(dims, uint64(d))
			}
			number, ok := Number(x.DType)
			if !ok {
				t.Fatalf("no number for %s", x.DType)
			}
			oracle.Tensors = append(oracle.Tensors, gguftest.Tensor(name, number, uint64(len(oracle.Data)), dims...))
			data := bytes.Repeat([]byte{byte(len(tensors) + 1)}, int(size))
			for len(data)%oracle.Align != 0 {
				data = append(data, 0)
			}
			oracle.Data = append(oracle.Data, data...)
			tensors = append(tensors, x)
		}
		path := filepath.Join(dir, "x.gguf")
		write(t, path, tensors, metadata)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, oracle.Bytes()) {
			t.Fatalf("wrote\n%q, want\n%q", got, oracle.Bytes())
		}
		h, err := parse(got)
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Metadata) != len(metadata) || len(h.Tensors) != len(tensors) {
			t.Fatalf("read %d keys and %d tensors", len(h.Metadata), len(h.Tensors))
		}
		for i, x := range h.Tensors {
			if x.Name != tensors[i].Name || x.DType != tensors[i].DType || !slices.Equal(x.Shape, tensors[i].Shape) {
				t.Errorf("wrote %+v, read %+v", tensors[i], x)
			}
			if b := got[x.Offset : x.Offset+x.Bytes]; len(b) > 0 && bytes.Count(b, []byte{byte(i + 1)}) != len(b) {
				t.Errorf("the bytes of tensor %d are not where its header says", i)
			}
		}
		again := reread(t, path)
		if diff := cmp.Diff(metadata, again, cmp.AllowUnexported(Entry{})); diff != "" {
			t.Error(diff)
		}
	})
}

// write writes a file; the bytes of tensor i are all i+1.
func write(t interface {
	Helper()
	Fatal(...any)
}, path string, tensors []Tensor, metadata []Entry) {
	t.Helper()
	w, err := Create(path, tensors, metadata)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range w.Tensors() {
		half := x.Bytes / 2
		for _, part := range [][2]int64{{half, x.Bytes}, {0, half}} { // in any order
			if err := w.WriteTensor(i, bytes.Repeat([]byte{byte(i + 1)}, int(part[1]-part[0])), part[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != w.Size() {
		t.Fatal("the file has another size than it was given", err)
	}
}

// reread reads the metadata of a file whole.
func reread(t interface {
	Helper()
	Fatal(...any)
}, path string) []Entry {
	t.Helper()
	src, err := source.Open(context.Background(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r, err := src.Open(context.Background(), filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := Entries(context.Background(), r, func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCopiesLlamaCpp: the metadata of a file that llama.cpp wrote, read whole
// and written with its tensors, gives that file's header byte for byte.
func TestCopiesLlamaCpp(t *testing.T) {
	for _, name := range []string{"f32", "f16", "q8_0", "q4_0"} {
		path := filepath.Join(testdata(t), "stories260K", "gguf", "stories260K-"+name+".gguf")
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		h, err := parse(want)
		if err != nil {
			t.Fatal(err)
		}
		placed, head, size, err := Layout(h.Tensors, reread(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(head, want[:len(head)]) || size != int64(len(want)) {
			t.Errorf("%s: another header of %d bytes, or another size: %d, want %d", name, len(head), size, len(want))
		}
		if diff := cmp.Diff(h.Tensors, placed); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestLayoutRefuses: what no reader takes is not written, and nothing is left
// of it.
func TestLayoutRefuses(t *testing.T) {
	one := Tensor{Name: "t", DType: dtype.F32, Shape: []int64{4}}
	with := func(change func(*Tensor)) []Tensor {
		x := one
		change(&x)
		return []Tensor{x}
	}
	for name, c := range map[string]struct {
		tensors  []Tensor
		metadata []Entry
		says     string
	}{
		"name twice":      {tensors: []Tensor{one, one}, says: "twice"},
		"no name":         {tensors: with(func(x *Tensor) { x.Name = "" }), says: "name of 0 bytes"},
		"long name":       {tensors: with(func(x *Tensor) { x.Name = strings.Repeat("x", 64) }), says: "64 bytes"},
		"not UTF-8":       {tensors: with(func(x *Tensor) { x.Name = "\xff" }), says: "UTF-8"},
		"five dimensions": {tensors: with(func(x *Tensor) { x.Shape = make([]int64, 5) }), says: "5 dimensions"},
		"negative":        {tensors: with(func(x *Tensor) { x.Shape = []int64{-1} }), says: "negative"},
		"overflow":        {tensors: with(func(x *Tensor) { x.Shape = []int64{1 << 40, 1 << 40} }), says: "overflow"},
		"too many bytes":  {tensors: []Tensor{{Name: "a", DType: dtype.I8, Shape: []int64{1 << 61}}, {Name: "b", DType: dtype.I8, Shape: []int64{1<<61 + 1}}}, says: "too large"},
		"no such type":    {tensors: with(func(x *Tensor) { x.DType = dtype.F8E4M3 }), says: "F8_E4M3"},
		"half a block":    {tensors: with(func(x *Tensor) { x.DType, x.Shape = dtype.Q8_0, []int64{2, 16} }), says: "blocks of 32"},
		"key twice":       {metadata: []Entry{NewEntry("a", uint8(1)), NewEntry("a", "b")}, says: "twice"},
		"empty key":       {metadata: []Entry{NewEntry("", uint8(1))}, says: "empty"},
		"alignment 48":    {metadata: []Entry{NewEntry(AlignmentKey, uint32(48))}, says: "power of two"},
		"alignment u64":   {metadata: []Entry{NewEntry(AlignmentKey, uint64(32))}, says: "u32"},
	} {
		dir := t.TempDir()
		_, err := Create(filepath.Join(dir, "x.gguf"), c.tensors, c.metadata)
		if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want usage and %q", name, err, c.says)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind %v, %v", name, left, err)
		}
	}
}

// TestWriteTensorBounds: no write reaches beyond its tensor.
func TestWriteTensorBounds(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "x.gguf"), []Tensor{{Name: "t", DType: dtype.F32, Shape: []int64{4}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		bytes int
		off   int64
		ok    bool
	}{{16, 0, true}, {17, 0, false}, {1, 16, false}, {1, -1, false}, {0, 16, true}, {8, 1 << 62, false}} {
		if err := w.WriteTensor(0, make([]byte, c.bytes), c.off); (err == nil) != c.ok {
			t.Errorf("%d bytes at %d: %v", c.bytes, c.off, err)
		}
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
}

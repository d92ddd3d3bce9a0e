package digests

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// TestUnitsCover: units lie side by side, cover the tensor, are as many as
// Count says, and end where strides do.
func TestUnitsCover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.Int64Range(1, 300).Draw(t, "rows")
		row := rapid.Int64Range(1, 200_000).Draw(t, "row")
		u := UnitsOf([]int64{rows, row}, rows*row)
		if !u.valid() {
			t.Fatalf("%+v is not valid", u)
		}
		var n int64
		for off := int64(0); off < u.Bytes; n++ {
			i, start, stop := u.At(off)
			mid, _, _ := u.At(rapid.Int64Range(start, stop-1).Draw(t, "inside"))
			if i != n || mid != n || start != off || stop <= start || stop-start > unitBytes {
				t.Fatalf("unit %d of %+v is %d, [%d, %d)", n, u, i, start, stop)
			}
			off = stop
		}
		if n != u.Count() {
			t.Fatalf("%d units, Count says %d", n, u.Count())
		}
		// A cut at rows that UnitRows divides cuts no unit.
		cut := rapid.Int64Range(0, rows).Draw(t, "cut") / UnitRows(row) * UnitRows(row) * row
		if cut < u.Bytes {
			if _, start, _ := u.At(cut); start != cut {
				t.Fatalf("a cut at byte %d of %+v is in the unit that begins at %d", cut, u, start)
			}
		}
	})
}

// write writes a checkpoint of about 9 MiB and returns its folder.
func write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), []safetensors.Tensor{
		{Name: "a", DType: dtype.F32, Shape: []int64{1000, 1000}}, {Name: "b", DType: dtype.U8, Shape: []int64{7}},
		{Name: "c", DType: dtype.BF16, Shape: []int64{0, 3}}, {Name: "d", DType: dtype.BF16, Shape: []int64{3, 900_001}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range w.Tensors() {
		p := make([]byte, x.Bytes)
		for j := range p {
			p[j] = byte(i + j*j>>3)
		}
		if err := w.WriteTensor(i, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestWriteBeside holds what is written against the file's own bytes, hashed
// at once.
func TestWriteBeside(t *testing.T) {
	dir := write(t)
	other := `{"format":"gantry.digests.v1","block_bytes":4194304,"files":[{"name":"other","size":0,"xxh3_128":[],"head_bytes":0,"head_xxh3":"2d06800538d394c2"},` +
		`{"name":"model.safetensors","size":0,"xxh3_128":[],"head_bytes":0,"head_xxh3":"2d06800538d394c2"}],"tensors":[]}`
	if err := os.WriteFile(filepath.Join(dir, Name), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteBeside(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	f := s.File("model.safetensors")
	if s.File("other") == nil || len(s.Files) != 2 || f == nil || f.Size != int64(len(data)) || len(f.Blocks) != 3 {
		t.Fatalf("files %+v", s.Files)
	}
	for i, got := range f.Blocks {
		p := data[i*BlockBytes:]
		if want := xxh3.Hash128(p[:min(len(p), BlockBytes)]).Bytes(); got != want {
			t.Errorf("block %d: %x, want %x", i, got, want)
		}
	}
	if want := xxh3.Hash(data[:f.HeadBytes]); !bytes.Equal(f.Head[:], sum(want)) || f.HeadBytes != s.Tensors[0].Offset {
		t.Errorf("head of %d bytes: %x, want %x", f.HeadBytes, f.Head, want)
	}
	if len(s.Tensors) != 3 { // one has no bytes
		t.Fatalf("%d tensors", len(s.Tensors))
	}
	for _, x := range s.Tensors {
		var want []byte
		for off := int64(0); off < x.Bytes; {
			_, start, stop := x.At(off)
			want = append(want, sum(xxh3.Hash(data[x.Offset+start:x.Offset+stop]))...)
			off = stop
		}
		if !bytes.Equal(x.Sums, want) || s.Tensor(x.File, x.Offset) == nil {
			t.Errorf("%s: sums %x, want %x", x.Name, x.Sums, want)
		}
	}
}

func sum(x uint64) []byte {
	return []byte{byte(x >> 56), byte(x >> 48), byte(x >> 40), byte(x >> 32), byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}
}

// seeds are a right file and wrong ones.
func seeds(t testing.TB) (right []byte, wrong map[string]string) {
	t.Helper()
	right, err := json.Marshal(Join([]File{{Name: "f", Size: 10, Blocks: make([]Sum128, 1), HeadBytes: 2}},
		[][]Tensor{{{Name: "t", File: "f", Offset: 2, DType: dtype.U8, Units: Units{8, 8, 4}, Sums: make([]byte, 16)}}}))
	if err != nil {
		t.Fatal(err)
	}
	with := func(old, new string) string {
		if !bytes.Contains(right, []byte(old)) {
			t.Fatalf("no %q in %s", old, right)
		}
		return string(bytes.Replace(right, []byte(old), []byte(new), 1))
	}
	return right, map[string]string{
		"no JSON": "{", "another format": with("v1", "v2"), "other blocks": with("4194304", "4194305"),
		"a size without blocks": with(`"size":10`, `"size":0`), "too few blocks": with(`"size":10`, `"size":1e15`),
		"a negative size": with(`"size":10`, `"size":-1`), "a head past the end": with(`"head_bytes":2`, `"head_bytes":11`),
		"a name that leaves": with(`"name":"f"`, `"name":"../f"`), "an unknown file": with(`"file":"f"`, `"file":"g"`),
		"no dtype": with(`"dtype":"U8",`, ""), "an unknown dtype": with("U8", "INVALID"),
		"a tensor past the end": with(`"offset":2`, `"offset":3`), "an overflow": with(`"bytes":8`, `"bytes":9223372036854775807`),
		"no unit": with(`"unit":4`, `"unit":0`), "no stride": with(`"stride":8`, `"stride":0`), "a long unit": with(`"unit":4`, `"unit":9`),
		"too many sums": with(`"unit":4`, `"unit":8`), "too few": with(`"unit":4`, `"unit":1`), "a short digest": with(`"head_xxh3":"00`, `"head_xxh3":"`),
	}
}

func TestParse(t *testing.T) {
	right, wrong := seeds(t)
	if _, err := Parse(right); err != nil {
		t.Error(err)
	}
	for name, text := range wrong {
		if _, err := Parse([]byte(text)); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: what is accepted can be computed with, and is written as it was.
func FuzzParse(f *testing.F) {
	right, wrong := seeds(f)
	f.Add(right)
	for _, text := range wrong {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		for _, x := range s.Tensors {
			if n := x.Count(); x.Bytes > 0 {
				if i, start, stop := x.At(x.Bytes - 1); i != n-1 || start < 0 || stop != x.Bytes {
					t.Errorf("%+v: the last unit is %d, [%d, %d)", x.Units, i, start, stop)
				}
			}
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(again)
		if err != nil || !slices.EqualFunc(back.Files, s.Files, func(a, b File) bool { return a.Name == b.Name && slices.Equal(a.Blocks, b.Blocks) }) {
			t.Errorf("written and read again: %v", err)
		}
	})
}

package verify_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/checkpoint/verify"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/source"
)

// write writes a file of tensors of 600,001 elements, filled with pattern over
// and over, and returns its path.
func write(t *testing.T, patterns map[dtype.Type][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	var list []safetensors.Tensor
	for d := range patterns {
		list = append(list, safetensors.Tensor{Name: d.String(), DType: d, Shape: []int64{600_001}})
	}
	w, err := safetensors.Create(path, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range w.Tensors() {
		p := bytes.Repeat(patterns[x.DType], int(x.Bytes)/len(patterns[x.DType])+1)
		if err := w.WriteTensor(i, p[:x.Bytes], 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return path
}

// known says that a file's content has a SHA-256, as a hub does.
type known struct {
	source.Source
	sum string
}

func (k known) Open(ctx context.Context, name string) (source.Reader, error) {
	r, err := k.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return knownReader{r, k.sum}, nil
}

type knownReader struct {
	source.Reader
	sum string
}

func (k knownReader) File() source.File {
	f := k.Reader.File()
	f.ID = "hub=" + k.sum
	return f
}

// check verifies the checkpoint at path against the digests beside it.
func check(t *testing.T, path, sum string) *verify.Report {
	t.Helper()
	src, err := source.Open(t.Context(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if sum != "" {
		src = known{src, sum}
	}
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	set, err := digests.Read(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	r, err := verify.Checkpoint(t.Context(), src, ix, set, func(done, total int64) {
		if done < last || done > total {
			t.Errorf("%d of %d bytes after %d", done, total, last)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != r.Bytes {
		t.Errorf("%d bytes of %d", last, r.Bytes)
	}
	return r
}

// TestValues finds what is no number in every type that can hold it, over the
// borders of reads.
func TestValues(t *testing.T) {
	f32 := func(f float32) []byte { return binary.LittleEndian.AppendUint32(nil, math.Float32bits(f)) }
	f64 := func(f float64) []byte { return binary.LittleEndian.AppendUint64(nil, math.Float64bits(f)) }
	nan, inf := math.NaN(), math.Inf(-1)
	big := math.MaxFloat32
	for name, c := range map[string]struct {
		patterns map[dtype.Type][]byte
		nan, inf int64
	}{
		"finite":                        {map[dtype.Type][]byte{dtype.F32: f32(float32(big)), dtype.F64: f64(math.MaxFloat64), dtype.F16: {0xff, 0x7b}, dtype.BF16: {0x7f, 0x7f}, dtype.F8E4M3: {0x7e, 0xfe}, dtype.F8E5M2: {0x7b}, dtype.I32: {0xff}}, 0, 0},
		"NaN":                           {map[dtype.Type][]byte{dtype.F32: f32(float32(nan)), dtype.F64: f64(nan), dtype.F16: {1, 0xfc}, dtype.BF16: {1, 0x7f, 0x81, 0x7f}, dtype.F8E4M3: {0x7f, 0xff}, dtype.F8E5M2: {0x7d}}, 3*600_001 + 300_000 + 2*600_001, 0},
		"NaN, that minus zero would be": {map[dtype.Type][]byte{dtype.F8E4M3FNUZ: {0x80}, dtype.F8E5M2FNUZ: {0x80, 0x7f}, dtype.F8E8M0: {0xff}}, 2*600_001 + 300_001, 0},
		"Inf":                           {map[dtype.Type][]byte{dtype.F32: f32(float32(inf)), dtype.F64: f64(inf), dtype.F16: {0, 0x7c}, dtype.BF16: {0x80, 0xff}, dtype.F8E5M2: {0xfc}}, 0, 5 * 600_001},
	} {
		r := check(t, write(t, c.patterns), "")
		if r.NaN != c.nan || r.Inf != c.inf || (len(r.Problems) > 0) != (c.nan+c.inf > 0) || r.Digests != "none" {
			t.Errorf("%s: %d NaN and %d Inf, want %d and %d; digests %s, problems %v", name, r.NaN, r.Inf, c.nan, c.inf, r.Digests, r.Problems)
		}
	}
}

// TestBytes: a changed byte is found and named, wherever it is; and a hub's
// SHA-256 is checked.
func TestBytes(t *testing.T) {
	path := write(t, map[dtype.Type][]byte{dtype.F32: {1, 2, 3, 0, 5}, dtype.I8: {1, 2, 3}})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	right := sha256.Sum256(data)
	if err := digests.WriteBeside(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if r := check(t, path, hex.EncodeToString(right[:])); r.Digests != "matched" || len(r.Problems) != 0 || len(r.SHA256) != 1 {
		t.Errorf("right: digests %s, SHA-256 of %v, problems %v", r.Digests, r.SHA256, r.Problems)
	}
	wrong := strings.Repeat("0", 64)
	if r := check(t, path, wrong); len(r.SHA256) != 0 || len(r.Problems) != 1 || r.Digests != "matched" {
		t.Errorf("wrong SHA-256: digests %s, problems %v", r.Digests, r.Problems)
	}
	for _, at := range []int{len(data) - 1, len(data) / 2, 300_000} {
		data[at]++
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := check(t, path, "")
		if len(r.Problems) != 1 || r.Digests != "differ" {
			t.Fatalf("byte %d: digests %s, problems %v", at, r.Digests, r.Problems)
		}
		p := r.Problems[0]
		if int64(at) < p.Offset || int64(at) >= p.Offset+p.Length || p.Length > 64<<10 || p.Tensor == "" || p.File != "model.safetensors" {
			t.Errorf("byte %d: %s", at, fmt.Sprint(p))
		}
		data[at]--
	}
}

// TestCodes: packed integers that are stored under a floating-point type are
// no values of it.
func TestCodes(t *testing.T) {
	src, err := source.Open(t.Context(), write(t, map[dtype.Type][]byte{dtype.BF16: {0xff, 0xff}}), source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	for codes, nan := range map[bool]int64{false: 600_001, true: 0} {
		ix.Tensors[0].Codes = codes
		r, err := verify.Checkpoint(t.Context(), src, ix, nil, nil)
		if err != nil || r.NaN != nan || (r.Checked == 0) != codes || (len(r.Problems) == 0) != codes {
			t.Errorf("codes %t: %+v, %v", codes, r, err)
		}
	}
}

package verify

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/source"
)

// Problem is something that is wrong with the checkpoint.
type Problem struct {
	File   string `json:"file"`
	Tensor string `json:"tensor,omitempty"` // "" where it is about none, or about several
	Offset int64  `json:"offset"`           // of the bytes, in the file
	Length int64  `json:"length"`
	What   string `json:"what"`
}

// Report says what was looked at and what was found.
type Report struct {
	Bytes int64 `json:"bytes"` // of all files that hold tensors
	// Digests is "matched" where all bytes match gantry.digests.json, "none"
	// where there is none, "partial" where it leaves files out, "differ".
	Digests  string    `json:"digests"`
	SHA256   []string  `json:"sha256"` // files that match the hub's SHA-256
	Checked  int64     `json:"values"` // bytes of tensors whose values were looked at
	NaN      int64     `json:"nan"`
	Inf      int64     `json:"inf"`
	Problems []Problem `json:"problems"`
	// New is the set that was computed on the way.
	New *digests.Set `json:"-"`
}

// Checkpoint reads every byte of an index's files, once, files side by side,
// and holds them against set, which may be nil.
// progress, if set, is told of bytes as they are read, by one goroutine at a
// time. What is wrong with the checkpoint is in the report; errors are those of
// reading it.
func Checkpoint(ctx context.Context, src source.Source, ix *checkpoint.Index, set *digests.Set, progress func(done, total int64)) (*Report, error) {
	src = checkpoint.WithValues(src)
	v := &verifier{report: Report{Digests: "none", SHA256: []string{}, Problems: []Problem{}}, set: set, ix: ix, progress: progress}
	for _, f := range ix.Files {
		v.report.Bytes += f.Size
	}
	files, tensors := make([]digests.File, len(ix.Files)), make([][]digests.Tensor, len(ix.Files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range ix.Files {
		g.Go(func() (err error) {
			files[i], tensors[i], err = v.file(ctx, src, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	v.report.New = digests.Join(files, tensors)
	v.conclude()
	return &v.report, nil
}

type verifier struct {
	set      *digests.Set
	ix       *checkpoint.Index
	progress func(done, total int64)

	mu      sync.Mutex
	report  Report
	done    int64
	covered int  // files that the set has
	differ  bool // bytes differ from it
}

// file reads one file.
func (v *verifier) file(ctx context.Context, src source.Source, i int) (digests.File, []digests.Tensor, error) {
	found := map[*checkpoint.Tensor]*values{}
	visit := func(t *checkpoint.Tensor, _ int64, p []byte) {
		v.count(int64(len(p)))
		if t == nil {
			return
		}
		if found[t] == nil {
			of := t.DType
			if t.Codes {
				of = dtype.Invalid
			}
			found[t] = newValues(of)
		}
		found[t].add(p)
	}
	var also []io.Writer
	var sum hash.Hash
	want, _ := strings.CutPrefix(v.ix.Files[i].ID, "hub=")
	if len(want) == hex.EncodedLen(sha256.Size) {
		sum = sha256.New()
		also = append(also, sum)
	}
	f, ts, err := digests.Scan(ctx, src, v.ix, i, visit, also...)
	if err != nil {
		return f, ts, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for t, x := range found {
		v.values(t, x)
	}
	if sum != nil {
		if got := hex.EncodeToString(sum.Sum(nil)); got == want {
			v.report.SHA256 = append(v.report.SHA256, f.Name)
		} else {
			v.problem(f.Name, "", 0, f.Size, "SHA-256 %s, the hub says %s", got, want)
		}
	}
	v.compare(f, ts)
	return f, ts, nil
}

func (v *verifier) count(n int64) {
	if v.progress == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += n
	v.progress(v.done, v.report.Bytes)
}

func (v *verifier) problem(file, tensor string, off, n int64, format string, args ...any) {
	v.report.Problems = append(v.report.Problems, Problem{File: file, Tensor: tensor, Offset: off, Length: n, What: fmt.Sprintf(format, args...)})
}

func (v *verifier) values(t *checkpoint.Tensor, x *values) {
	if x.of == dtype.Invalid {
		return
	}
	v.report.Checked += t.Bytes
	v.report.NaN += x.NaN
	v.report.Inf += x.Inf
	if x.NonFinite != (dtype.NonFinite{}) {
		v.problem(v.ix.Files[t.File].Name, t.Name, t.Offset, t.Bytes, "%d NaN and %d infinite values", x.NaN, x.Inf)
	}
}

// compare holds what was read of a file against its digests: units first,
// which name tensor and place, then blocks, for what lies between tensors.
func (v *verifier) compare(f digests.File, ts []digests.Tensor) {
	if v.set == nil || v.set.File(f.Name) == nil {
		return
	}
	v.covered++
	before, want := len(v.report.Problems), v.set.File(f.Name)
	if want.Size != f.Size {
		v.problem(f.Name, "", 0, f.Size, "%s says that it has %d bytes", digests.Name, want.Size)
	}
	for i := range ts {
		v.units(&ts[i])
	}
	named := v.report.Problems[before:]
	for i, got := range f.Blocks {
		start := int64(i) * digests.BlockBytes
		n := min(digests.BlockBytes, f.Size-start)
		if i >= len(want.Blocks) || got == want.Blocks[i] || overlaps(named, start, start+n) {
			continue
		}
		v.problem(f.Name, "", start, n, "xxh3-128 %x, %s says %x", got[:], digests.Name, want.Blocks[i][:])
	}
	v.differ = v.differ || len(v.report.Problems) > before
}

// overlaps reports whether a problem is about bytes of [start, stop).
func overlaps(ps []Problem, start, stop int64) bool {
	for _, p := range ps {
		if p.Offset < stop && start < p.Offset+p.Length {
			return true
		}
	}
	return false
}

// units compares a tensor's units. Those that differ side by side are one
// problem.
func (v *verifier) units(got *digests.Tensor) {
	want := v.set.Tensor(got.File, got.Offset)
	if want == nil || want.Units != got.Units || want.DType != got.DType {
		v.problem(got.File, got.Name, got.Offset, got.Bytes, "%s says that another tensor is there", digests.Name)
		return
	}
	var open *Problem
	for off := int64(0); off < got.Bytes; {
		i, start, stop := got.At(off)
		off = stop
		g, w := binary.BigEndian.Uint64(got.Sums[8*i:]), binary.BigEndian.Uint64(want.Sums[8*i:])
		switch {
		case g == w:
			open = nil
		case open != nil:
			open.Length += stop - start
		default:
			v.problem(got.File, got.Name, got.Offset+start, stop-start, "xxh3 %016x, %s says %016x", g, digests.Name, w)
			open = &v.report.Problems[len(v.report.Problems)-1]
		}
	}
}

func (v *verifier) conclude() {
	switch {
	case v.differ:
		v.report.Digests = "differ"
	case v.set != nil && v.covered == len(v.ix.Files):
		v.report.Digests = "matched"
	case v.covered > 0:
		v.report.Digests = "partial"
	}
}

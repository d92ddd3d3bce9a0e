package quant

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/internal/ggml"
)

const (
	benchSize   = 64 << 20 // bytes of the source: more than the caches hold
	benchGroup  = 1 << 20  // bytes at a time, as the loader does
	benchGroups = benchSize / benchGroup
	benchCols   = 4096
)

// BenchmarkEncode reads 64 MiB in row groups of 1 MiB into planes whose pages
// have been touched before. Between two groups it copies one from elsewhere in
// the same source and, where GGML_LIB names a folder with libggml, has ggml's
// quantizers turn the same values from F32, so that noise hits all alike. It
// reports the medians over the groups: GB/s of input, and how many times
// faster that is than memcpy for the same bytes and than ggml for the same
// values. docs/benchmarks.md has the figures.
func BenchmarkEncode(b *testing.B) {
	var library *ggml.Library
	if dir := os.Getenv("GGML_LIB"); dir != "" {
		var err error
		if library, err = ggml.Open(dir); err != nil {
			b.Fatal(err)
		}
	}
	for _, s := range schemes {
		for _, from := range floats[:3] {
			src := benchSource(from)
			race := []runner{encoder(b, s, src, from), copier(src)}
			best := kernel
			for _, k := range twins() {
				kernel = k
				if k.name == best.name {
					race = append(race, rivals(library, s, src, from)...)
				}
				b.Run(s.Name()+"/"+from.String()+"/"+k.name, func(b *testing.B) { run(b, race) })
			}
			kernel = best
		}
	}
}

// runner is one way to work on group g of a source; unit is what the report
// calls it.
type runner struct {
	unit string
	run  func(g int)
}

// run times every runner on every group and reports how the first compares
// with the others. The order changes from group to group: who writes much
// leaves the next one a memory that is still busy.
func run(b *testing.B, race []runner) {
	times := make([][]time.Duration, len(race))
	order := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		for g := range benchGroups {
			for _, i := range order.Perm(len(race)) {
				start := time.Now()
				race[i].run(g)
				times[i] = append(times[i], time.Since(start))
			}
		}
	}
	own := median(times[0])
	b.ReportMetric(0, "ns/op") // it would be of all of them together
	b.ReportMetric(benchGroup/own, "GB/s")
	for i, r := range race[1:] {
		b.ReportMetric(median(times[1+i])/own, r.unit)
	}
}

func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2])
}

func encoder(b *testing.B, s Scheme, src []byte, from dtype.Type) runner {
	l, err := s.Layout(from, benchCols)
	if err != nil {
		b.Fatal(err)
	}
	rows := benchGroup / from.Size() / benchCols
	planes, dst := make([][]byte, len(l.Planes)), make([][]byte, len(l.Planes))
	for i, p := range l.Planes {
		planes[i] = touched(benchGroups * rows * int(p.RowBytes(benchCols)))
	}
	return runner{"", func(g int) {
		for i, p := range l.Planes {
			n := rows * int(p.RowBytes(benchCols))
			dst[i] = planes[i][g*n:][:n]
		}
		s.Encode(dst, src[g*benchGroup:][:benchGroup], from, rows, benchCols)
	}}
}

func copier(src []byte) runner {
	dst := touched(benchSize)
	return runner{"x-memcpy", func(g int) {
		at := (g + benchGroups/2) % benchGroups * benchGroup
		copy(dst[at:][:benchGroup], src[at:])
	}}
}

// rivals are ggml's quantizers for s, from a copy of src as F32.
func rivals(library *ggml.Library, s Scheme, src []byte, from dtype.Type) (race []runner) {
	if library == nil {
		return nil
	}
	add := func(unit string, q ggml.Quantizer) {
		if q == nil {
			return
		}
		n := benchGroup / from.Size()
		wide, dst := make([]float32, benchGroups*n), touched(benchGroups*n*4)
		decodeFloats(wide, src, from)
		race = append(race, runner{unit, func(g int) {
			at := (g + benchGroups/4) % benchGroups * n
			q.Quantize(dst[4*at:], wide[at:][:n])
		}})
	}
	add("x-reference", library.Reference(s.Name()))
	add("x-simd", library.SIMD(s.Name()))
	return race
}

// benchSource returns elements, one group of them repeated.
func benchSource(d dtype.Type) []byte {
	once := randomFloats(1, d, benchGroup/d.Size())
	src := make([]byte, 0, benchSize)
	for len(src) < benchSize {
		src = append(src, once...)
	}
	return src
}

// touched returns n bytes whose pages are in memory.
func touched(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	return b
}

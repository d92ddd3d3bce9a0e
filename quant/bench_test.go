package quant

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

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
// have been touched before, huge ones where the system has them. Between two
// groups it copies one from elsewhere in the same source and, where GGML_LIB
// names a folder with libggml, has ggml's quantizers turn the same values from
// F32, so that noise hits all alike. It reports medians over the groups: GB/s
// of input, and how many times faster that is than memcpy for the same bytes
// and than ggml for the same values, in the same group. docs/benchmarks.md has
// the figures.
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
					race = append(race, rivals(b, library, s, src, from)...)
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
	own := times[0]
	for i, r := range race[1:] {
		b.ReportMetric(median(own, times[1+i]), r.unit)
	}
	b.ReportMetric(0, "ns/op") // it would be of all of them together
	b.ReportMetric(benchGroup*median(own, nil), "GB/s")
}

// median returns the median of times over own, or of 1/own.
func median(own, times []time.Duration) float64 {
	all := make([]float64, len(own))
	for i := range all {
		all[i] = 1 / float64(own[i])
		if times != nil {
			all[i] *= float64(times[i])
		}
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func encoder(b *testing.B, s Scheme, src []byte, from dtype.Type) runner {
	l, rows := benchLayout(b, s, from)
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

// benchLayout returns the layout of a group and its rows.
func benchLayout(b *testing.B, s Scheme, from dtype.Type) (Layout, int) {
	l, err := s.Layout(from, benchCols)
	if err != nil {
		b.Fatal(err)
	}
	return l, benchGroup / from.Size() / benchCols
}

func copier(src []byte) runner {
	dst := touched(benchSize)
	return runner{"x-memcpy", func(g int) {
		at := (g + benchGroups/2) % benchGroups * benchGroup
		copy(dst[at:][:benchGroup], src[at:])
	}}
}

// rivals are ggml's quantizers for s, from a copy of src as F32, into planes
// like ours.
func rivals(b *testing.B, library *ggml.Library, s Scheme, src []byte, from dtype.Type) (race []runner) {
	if library == nil {
		return nil
	}
	l, rows := benchLayout(b, s, from)
	size := rows * int(l.Planes[0].RowBytes(benchCols))
	add := func(unit string, q ggml.Quantizer) {
		if q == nil {
			return
		}
		n := benchGroup / from.Size()
		dst := touched(benchGroups * size)
		bytes := touched(4 * benchGroups * n)
		wide := unsafe.Slice((*float32)(unsafe.Pointer(&bytes[0])), benchGroups*n)
		decodeFloats(wide, src, from)
		race = append(race, runner{unit, func(g int) {
			at := (g + benchGroups/4) % benchGroups
			q.Quantize(dst[at*size:], wide[at*n:][:n])
		}})
	}
	add("x-reference", library.Reference(s.Name()))
	add("x-simd", library.SIMD(s.Name()))
	return race
}

// benchSource returns elements, one group of them repeated.
func benchSource(d dtype.Type) []byte {
	once := randomFloats(1, d, benchGroup/d.Size())
	src := touched(benchSize)
	for at := 0; at < benchSize; at += benchGroup {
		copy(src[at:], once)
	}
	return src
}

// touched returns n bytes, of whole pages of 2 MiB, that are in memory.
func touched(n int) []byte {
	const page = 2 << 20
	b := make([]byte, n+page)
	b = b[-uintptr(unsafe.Pointer(&b[0]))%page:][:n]
	adviseHuge(b)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	return b
}

package quant

import (
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// Benchmarks read 64 MiB, more than the caches hold, in row groups of 1 MiB,
// as the loader does, into planes whose pages have been touched before.
// SetBytes counts input, so that MB/s compare with those of memcpy, which
// copies as many bytes.
const (
	benchBytes = 64 << 20
	benchGroup = 1 << 20
	benchCols  = 4096
)

func BenchmarkMemcpy(b *testing.B) {
	src, dst := benchSource(b, dtype.BF16), make([]byte, benchBytes)
	copy(dst, src)
	b.SetBytes(benchBytes)
	for b.Loop() {
		copy(dst, src)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, s := range schemes {
		for _, from := range floats[:3] {
			src := benchSource(b, from)
			rows := benchGroup / from.Size() / benchCols
			l, err := s.Layout(from, benchCols)
			if err != nil {
				b.Fatal(err)
			}
			// One arena for the whole tensor, already touched.
			groups := benchBytes / benchGroup
			planes := make([][]byte, len(l.Planes))
			for i, p := range l.Planes {
				planes[i] = make([]byte, groups*rows*int(p.RowBytes(benchCols)))
				for at := 0; at < len(planes[i]); at += 4096 {
					planes[i][at] = 1
				}
			}
			best := kernel
			for _, k := range twins() {
				kernel = k
				b.Run(s.Name()+"/"+from.String()+"/"+k.name, func(b *testing.B) {
					dst := make([][]byte, len(planes))
					b.SetBytes(benchBytes)
					for b.Loop() {
						for g := range groups {
							for i, p := range l.Planes {
								n := rows * int(p.RowBytes(benchCols))
								dst[i] = planes[i][g*n : (g+1)*n]
							}
							s.Encode(dst, src[g*benchGroup:(g+1)*benchGroup], from, rows, benchCols)
						}
					}
				})
			}
			kernel = best
		}
	}
}

func benchSource(b *testing.B, d dtype.Type) []byte {
	b.Helper()
	group := randomFloats(1, d, benchGroup/d.Size())
	src := make([]byte, 0, benchBytes)
	for range benchBytes / benchGroup {
		src = append(src, group...)
	}
	return src
}

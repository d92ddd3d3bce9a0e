package quant

import (
	"testing"
	"time"

	"github.com/gantry-ml/gantry/dtype"
)

// BenchmarkEncode reads 64 MiB, more than the caches hold, in row groups of
// 1 MiB, as the loader does, into planes whose pages have been touched before.
// After each group it copies one from elsewhere in the same source, so that
// noise hits both alike. It reports GB/s of input, memcpy's beside it, and
// their ratio.
func BenchmarkEncode(b *testing.B) {
	const (
		size   = 64 << 20
		group  = 1 << 20
		groups = size / group
		cols   = 4096
	)
	for _, s := range schemes {
		for _, from := range floats[:3] {
			src := benchSource(from, size, group)
			rows := group / from.Size() / cols
			l, err := s.Layout(from, cols)
			if err != nil {
				b.Fatal(err)
			}
			copied := touched(size)
			planes := make([][]byte, len(l.Planes))
			for i, p := range l.Planes {
				planes[i] = touched(groups * rows * int(p.RowBytes(cols)))
			}
			best := kernel
			for _, k := range twins() {
				kernel = k
				b.Run(s.Name()+"/"+from.String()+"/"+k.name, func(b *testing.B) {
					dst := make([][]byte, len(planes))
					var encoding, copying time.Duration
					for b.Loop() {
						for g := range groups {
							for i, p := range l.Planes {
								n := rows * int(p.RowBytes(cols))
								dst[i] = planes[i][g*n : (g+1)*n]
							}
							other := (g + groups/2) % groups * group
							start := time.Now()
							s.Encode(dst, src[g*group:(g+1)*group], from, rows, cols)
							mid := time.Now()
							copy(copied[other:other+group], src[other:other+group])
							encoding += mid.Sub(start)
							copying += time.Since(mid)
						}
					}
					bytes := float64(size) * float64(b.N)
					b.ReportMetric(bytes/float64(encoding), "GB/s")
					b.ReportMetric(bytes/float64(copying), "memcpy-GB/s")
					b.ReportMetric(float64(copying)/float64(encoding), "x-memcpy")
				})
			}
			kernel = best
		}
	}
}

// benchSource returns size bytes of elements, one group of them repeated.
func benchSource(d dtype.Type, size, group int) []byte {
	once := randomFloats(1, d, group/d.Size())
	src := make([]byte, 0, size)
	for len(src) < size {
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

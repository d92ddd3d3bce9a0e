package synth

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/dtype"
)

// quantiles is how many points of the normal distribution are drawn from. The
// outermost lie at 4.2 standard deviations.
const quantiles = 1 << 16

// standard returns the middles of equally probable slices of the standard
// normal distribution, ascending.
var standard = sync.OnceValue(func() *[quantiles]float64 {
	var q [quantiles]float64
	for i := range q {
		p := (float64(i) + 0.5) / quantiles
		q[i] = math.Sqrt2 * math.Erfinv(2*p-1)
	}
	return &q
})

// Some channels of trained models weigh several times what the others do.
// Quantizers must bear them.
const (
	outlierEvery = 512 // one column in so many, at least one
	outlierScale = 6
)

// filler writes rows of one weight. Each row has a random stream of its own,
// from the seed, the tensor's name and the row's number, so that rows may be
// written in any order by anybody.
type filler struct {
	key      uint64
	cols     int
	size     int // bytes of an element
	table    *table
	outliers []int // columns
	wide     *table
}

// table holds a distribution's quantiles as elements: 16-bit ones as they are
// stored, 32-bit ones as float32.
type table struct {
	half  *[quantiles]uint16
	float *[quantiles]float32
}

func newTable(t dtype.Type, mean, std float64) *table {
	q := standard()
	if t == dtype.F32 {
		var f [quantiles]float32
		for i, z := range q {
			f[i] = float32(mean + float64(std*z))
		}
		return &table{float: &f}
	}
	var h [quantiles]uint16
	convert := toBF16
	if t == dtype.F16 {
		convert = toF16
	}
	for i, z := range q {
		h[i] = convert(float32(mean + float64(std*z)))
	}
	return &table{half: &h}
}

// tables makes each table once. One goroutine uses it.
type tables map[[2]float64]*table

func (ts tables) get(t dtype.Type, mean, std float64) *table {
	key := [2]float64{mean, std}
	if ts[key] == nil {
		ts[key] = newTable(t, mean, std)
	}
	return ts[key]
}

func newFiller(w weight, seed uint64, ts tables) *filler {
	f := &filler{
		key:   xxh3.HashStringSeed(w.Name, seed),
		cols:  int(w.cols()),
		size:  w.DType.Size(),
		table: ts.get(w.DType, w.mean, w.std),
	}
	if len(w.Shape) < 2 {
		return f
	}
	f.wide = ts.get(w.DType, w.mean, outlierScale*w.std)
	r := stream(mix(f.key)) // of the tensor; rows have mix(key + row + 1)
	for range max(1, f.cols/outlierEvery) {
		f.outliers = append(f.outliers, int(r.next()%uint64(f.cols)))
	}
	return f
}

// fill writes whole rows from number row on into dst.
func (f *filler) fill(dst []byte, row int64) {
	width := f.cols * f.size
	for ; len(dst) >= width && width > 0; dst, row = dst[width:], row+1 {
		r := stream(mix(f.key + uint64(row) + 1))
		line := dst[:width]
		if f.size == 2 {
			r.fill16(line, f.table.half)
		} else {
			r.fill32(line, f.table.float)
		}
		for _, c := range f.outliers {
			i := r.next() % quantiles
			if f.size == 2 {
				binary.LittleEndian.PutUint16(line[2*c:], f.wide.half[i])
			} else {
				binary.LittleEndian.PutUint32(line[4*c:], math.Float32bits(f.wide.float[i]))
			}
		}
	}
}

// stream is a splitmix64 generator (Steele, Lea, Flood: Fast splittable
// pseudorandom number generators, 2014): a counter and a mixer.
type stream uint64

func (s *stream) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	return mix(uint64(*s))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill16 fills a line of 16-bit elements, four of a draw.
func (s *stream) fill16(line []byte, q *[quantiles]uint16) {
	for ; len(line) >= 8; line = line[8:] {
		x := s.next()
		binary.LittleEndian.PutUint64(line, uint64(q[uint16(x)])|uint64(q[uint16(x>>16)])<<16|
			uint64(q[uint16(x>>32)])<<32|uint64(q[uint16(x>>48)])<<48)
	}
	for x := s.next(); len(line) >= 2; line, x = line[2:], x>>16 {
		binary.LittleEndian.PutUint16(line, q[uint16(x)])
	}
}

// fill32 fills a line of 32-bit elements: a quantile, and a step towards the
// next one so that the low bits of the mantissa are used too.
func (s *stream) fill32(line []byte, q *[quantiles]float32) {
	for ; len(line) >= 4; line = line[4:] {
		x := s.next()
		i := uint16(x)
		v, next := q[i], q[min(int(i)+1, quantiles-1)]
		v += float32(float32(uint16(x>>16)) / quantiles * (next - v))
		binary.LittleEndian.PutUint32(line, math.Float32bits(v))
	}
}

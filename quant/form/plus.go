package form

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/gantry-ml/gantry/dtype"
)

const plusName = "plus"

// Plus names the form in which something was added to each value, in F32.
// llama.cpp's converter adds 1 to the norms of Gemma. What was lost in the sum
// does not come back: a value is off by half of the sum's last place at most.
func Plus(x float32) string {
	return fmt.Sprintf("%s:%s", plusName, strconv.FormatFloat(float64(x), 'g', -1, 32))
}

// plus are rows of floats. A unit is a row.
type plus struct {
	sum        float32
	stored     dtype.Type
	rows, cols int64
}

func openPlus(param string, stored dtype.Type, rows, cols int64) (Form, error) {
	x, err := strconv.ParseFloat(param, 32)
	if err != nil || x-x != 0 {
		return nil, fmt.Errorf("%.20q was added: want a number", param)
	}
	if stored != dtype.F32 && stored != dtype.F16 && stored != dtype.BF16 {
		return nil, fmt.Errorf("want F32, F16 or BF16")
	}
	return &plus{sum: float32(x), stored: stored, rows: rows, cols: cols}, nil
}

func (f *plus) Parts() []Part {
	return []Part{{Axis: Rows, Per: 1, Unit: f.cols * int64(f.stored.Size()), Units: f.rows}}
}

func (f *plus) Type() dtype.Type { return dtype.F32 }

func (f *plus) Read(dst []byte, from []Slab, rows, _ Range) {
	size := f.stored.Size()
	row := f.cols * int64(size)
	for r := rows.Start; r < rows.Stop; r++ {
		src := from[0].unit(r, row)
		for i := range f.cols {
			putF32(dst, (r-rows.Start)*f.cols+i, float(src[int(i)*size:], f.stored)-f.sum)
		}
	}
}

// putF32 writes the i-th F32 of dst.
func putF32(dst []byte, i int64, v float32) {
	binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
}

// float reads one F32, F16 or BF16.
func float(b []byte, t dtype.Type) float32 {
	switch t {
	case dtype.F16:
		return dtype.F16ToF32(binary.LittleEndian.Uint16(b))
	case dtype.BF16:
		return dtype.BF16ToF32(binary.LittleEndian.Uint16(b))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b))
}

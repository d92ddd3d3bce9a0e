package digests

import "math/bits"

// unitBytes is about how long a unit is: 8 bytes of digest for each are a
// ten-thousandth of the checkpoint, and what a cut in the middle of one makes
// a load read twice is less than a hundredth of a chunk.
const unitBytes = 64 << 10

// Units is how a tensor's bytes are divided: into strides, the last one short,
// and each stride into units, its last one short. A stride is a power of two
// of rows where rows are short, else one row.
type Units struct {
	Bytes  int64 `json:"bytes"`  // of the tensor
	Stride int64 `json:"stride"` // bytes; 0 where there are none
	Unit   int64 `json:"unit"`   // bytes, at most Stride
}

// UnitRows returns how many rows of a length in bytes a stride has.
func UnitRows(row int64) int64 {
	if row <= 0 || row >= unitBytes {
		return 1
	}
	return 1 << (bits.Len64(uint64(unitBytes/row)) - 1)
}

// UnitsOf divides a tensor of a shape and so many stored bytes. Its rows are
// its first dimension; where they do not end at bytes it is all one row.
func UnitsOf(shape []int64, bytes int64) Units {
	if bytes <= 0 {
		return Units{}
	}
	row := bytes
	if len(shape) > 0 && shape[0] > 0 && bytes%shape[0] == 0 {
		row = bytes / shape[0]
	}
	stride := min(row*UnitRows(row), bytes)
	return Units{Bytes: bytes, Stride: stride, Unit: min(stride, unitBytes)}
}

// perStride is how many units a whole stride has.
func (u Units) perStride() int64 { return (u.Stride + u.Unit - 1) / u.Unit }

// Count returns the number of units.
func (u Units) Count() int64 {
	if u.Bytes == 0 {
		return 0
	}
	rest := u.Bytes % u.Stride
	return u.Bytes/u.Stride*u.perStride() + (rest+u.Unit-1)/u.Unit
}

// At returns the number of the unit that a byte of the tensor lies in, and the
// unit's range [start, stop) in the tensor.
func (u Units) At(off int64) (i, start, stop int64) {
	stride := off / u.Stride
	base := stride * u.Stride
	in := (off - base) / u.Unit
	start = base + in*u.Unit
	return stride*u.perStride() + in, start, min(start+u.Unit, base+u.Stride, u.Bytes)
}

// valid reports whether u may be computed with: its numbers come from a file.
func (u Units) valid() bool {
	if u.Bytes == 0 {
		return u.Stride == 0 && u.Unit == 0
	}
	return u.Bytes > 0 && u.Unit >= 1 && u.Unit <= u.Stride && u.Stride <= u.Bytes && u.Unit <= maxUnit
}

// maxUnit is the longest unit that is accepted.
const maxUnit = 1 << 20

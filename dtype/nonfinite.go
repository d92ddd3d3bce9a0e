package dtype

import (
	"bytes"
	"encoding/binary"
	"math"
)

// NonFinite counts values that are no finite numbers.
type NonFinite struct {
	NaN int64 `json:"nan"`
	Inf int64 `json:"inf"`
}

// Plus returns the sum of two counts.
func (n NonFinite) Plus(m NonFinite) NonFinite { return NonFinite{n.NaN + m.NaN, n.Inf + m.Inf} }

// Tally counts the values of one rank that are no finite numbers: All of them,
// and those of them that no rank before it holds as well. Over all ranks Once
// adds up to the model's, each value counted in one copy.
type Tally struct{ All, Once NonFinite }

// Plus returns the sum of two tallies.
func (t Tally) Plus(u Tally) Tally { return Tally{t.All.Plus(u.All), t.Once.Plus(u.Once)} }

// CanBeNonFinite says whether the type has values that are no finite numbers:
// the floats from 8 bits on.
func (t Type) CanBeNonFinite() bool {
	switch t {
	case F8E4M3, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F8E8M0:
		return true
	}
	return t.Float()
}

// NonFinite counts among the whole elements in b, little-endian, those that are
// no finite numbers. Types that CanBeNonFinite does not name have none; of
// those of 8 bits only F8_E5M2 has infinities.
func (t Type) NonFinite(b []byte) (n NonFinite) {
	le := binary.LittleEndian
	switch t {
	case F64:
		for ; len(b) >= 8; b = b[8:] {
			n.count(le.Uint64(b)<<1, 0x7ff<<53)
		}
	case F32:
		for ; len(b) >= 4; b = b[4:] {
			n.count(uint64(le.Uint32(b)<<1), 0xff<<24)
		}
	case F16:
		for ; len(b) >= 2; b = b[2:] {
			n.count(uint64(le.Uint16(b)<<1), 0x1f<<11)
		}
	case BF16:
		for ; len(b) >= 2; b = b[2:] {
			n.count(uint64(le.Uint16(b)<<1), 0xff<<8)
		}
	case F8E5M2:
		for _, x := range b {
			n.count(uint64(x<<1), 0x1f<<3)
		}
	case F8E4M3:
		for _, x := range b {
			if x&0x7f == 0x7f {
				n.NaN++
			}
		}
	case F8E4M3FNUZ, F8E5M2FNUZ:
		n.NaN = int64(bytes.Count(b, []byte{0x80})) // minus zero, which they have not
	case F8E8M0:
		n.NaN = int64(bytes.Count(b, []byte{0xff}))
	}
	return n
}

// NonFiniteOf counts among float32 values.
func NonFiniteOf(values []float32) (n NonFinite) {
	for _, v := range values {
		n.count(uint64(math.Float32bits(v)<<1), 0xff<<24)
	}
	return n
}

// count looks at one value by its bits without the sign: inf is an infinity,
// and what is larger is no number.
func (n *NonFinite) count(bits, inf uint64) {
	if bits < inf {
		return
	}
	if bits == inf {
		n.Inf++
	} else {
		n.NaN++
	}
}

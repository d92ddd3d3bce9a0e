package quant

import (
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// What schemes have in common that give a group of columns a scale, and codes
// of a few bits.

func lcm(a, b int64) int64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// stepOf returns (most - least) / steps, also where the difference alone would
// overflow.
func stepOf(least, most, steps float32) float32 {
	if d := most - least; d <= math.MaxFloat32 {
		return d / steps
	}
	return float32(most/steps) - float32(least/steps)
}

// rangeWithZero returns the smallest and the largest of some elements and 0,
// and whether all are finite.
func rangeWithZero(src []byte, from dtype.Type) (least, most float32, finite bool) {
	var f [tile]float32
	var top uint32
	for len(src) > 0 {
		n := nextTile(&f, &src, from)
		top = max(top, tileAbsmax(&f))
		for _, x := range f[:n] {
			least, most = min(least, x), max(most, x)
		}
	}
	return least, most, top < infBits
}

// nextTile reads up to 32 elements from src, zeros behind them, moves it on,
// and returns how many there were.
func nextTile(f *[tile]float32, src *[]byte, from dtype.Type) int {
	size := from.Size()
	if len(*src) >= tile*size {
		loadTile(f, *src, from)
		*src = (*src)[tile*size:]
		return tile
	}
	var head [8 * tile]byte
	loadTile(f, padTile(&head, *src), from)
	n := len(*src) / size
	*src = nil
	return n
}

// roundEven rounds |y| < 2²² to an integer, half to even.
func roundEven(y float32) float32 {
	const magic = 3 << 22
	return float32(y+magic) - magic
}

// roundAway rounds to an integer, half away from zero.
func roundAway(y float32) float32 { return float32(math.Round(float64(y))) }

// rangeOf returns the smallest and the largest element, of equal ones the
// first, and whether all are finite.
func rangeOf(src []byte, from dtype.Type) (least, most float32, finite bool) {
	var f [tile]float32
	var top uint32
	least, most = math.MaxFloat32, -math.MaxFloat32
	for len(src) > 0 {
		n := nextTile(&f, &src, from)
		top = max(top, tileAbsmax(&f))
		for _, x := range f[:n] {
			if x < least {
				least = x
			}
			if x > most {
				most = x
			}
		}
	}
	return least, most, top < infBits
}

// bitWriter fills bytes from their low bits on.
type bitWriter struct {
	out  []byte
	held uint64
	bits int
}

func (w *bitWriter) put(v uint32, bits int) {
	w.held |= uint64(v) << w.bits
	w.bits += bits
	for ; w.bits >= 8; w.bits -= 8 {
		w.out[0] = byte(w.held)
		w.out, w.held = w.out[1:], w.held>>8
	}
}

// flush writes what is held, and zeros to the end.
func (w *bitWriter) flush() {
	if w.bits > 0 {
		w.out[0] = byte(w.held)
		w.out = w.out[1:]
	}
	clear(w.out)
}

package quant

import (
	"encoding/binary"
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// The portable kernels read elements a tile at a time into F32 on the stack,
// so that each loop is written once, not once a type. Products and quotients
// are wrapped in float32() where a sum follows, or a compiler could fuse them.

const tile = 32

// loadTile reads 32 elements as F32; F64 is rounded to nearest.
func loadTile(dst *[tile]float32, src []byte, from dtype.Type) {
	switch from {
	case dtype.F32:
		b := (*[4 * tile]byte)(src)
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	case dtype.F16:
		b := (*[2 * tile]byte)(src)
		for i := range dst {
			dst[i] = dtype.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
		}
	case dtype.BF16:
		b := (*[2 * tile]byte)(src)
		for i := 0; i < tile; i += 4 { // four a load: BF16 is the upper half of F32
			lo, hi := binary.LittleEndian.Uint32(b[2*i:]), binary.LittleEndian.Uint32(b[2*i+4:])
			dst[i] = math.Float32frombits(lo << 16)
			dst[i+1] = math.Float32frombits(lo &^ 0xffff)
			dst[i+2] = math.Float32frombits(hi << 16)
			dst[i+3] = math.Float32frombits(hi &^ 0xffff)
		}
	case dtype.F64:
		b := (*[8 * tile]byte)(src)
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
	}
}

// loadTileFor is loadTile, but where to is narrower than F32 an F64 is rounded
// to odd, so that it is rounded to nearest once.
func loadTileFor(dst *[tile]float32, src []byte, to, from dtype.Type) {
	if from != dtype.F64 || to == dtype.F32 {
		loadTile(dst, src, from)
		return
	}
	b := (*[8 * tile]byte)(src)
	for i := range dst {
		dst[i] = dtype.F64ToF32Odd(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
	}
}

// storeTile writes 32 F32 as type to.
func storeTile(dst []byte, src *[tile]float32, to dtype.Type) {
	switch to {
	case dtype.F32:
		b := (*[4 * tile]byte)(dst)
		for i := range src {
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(src[i]))
		}
	case dtype.F16:
		b := (*[2 * tile]byte)(dst)
		for i := range src {
			binary.LittleEndian.PutUint16(b[2*i:], dtype.F32ToF16(src[i]))
		}
	case dtype.BF16:
		b := (*[2 * tile]byte)(dst)
		for i := range src {
			binary.LittleEndian.PutUint16(b[2*i:], dtype.F32ToBF16(src[i]))
		}
	}
}

// padTile copies what is left of src, less than a tile, behind which buf is
// zero.
func padTile(buf *[8 * tile]byte, src []byte) []byte {
	clear(buf[copy(buf[:], src):])
	return buf[:]
}

func castPortable(dst, src []byte, to, from dtype.Type) {
	var f [tile]float32
	in, out := tile*from.Size(), tile*to.Size()
	for len(src) >= in {
		loadTileFor(&f, src, to, from)
		storeTile(dst, &f, to)
		src, dst = src[in:], dst[out:]
	}
	if len(src) > 0 {
		var head, tail [8 * tile]byte
		loadTileFor(&f, padTile(&head, src), to, from)
		storeTile(tail[:], &f, to)
		copy(dst, tail[:])
	}
}

// decodeFloats reads len(dst) elements of type from, rounding F64; NaN for a
// type that is not a float.
func decodeFloats(dst []float32, src []byte, from dtype.Type) {
	if !from.Float() {
		for i := range dst {
			dst[i] = math.Float32frombits(nanBits)
		}
		return
	}
	size := from.Size()
	src = src[:len(dst)*size]
	for len(dst) >= tile {
		loadTile((*[tile]float32)(dst), src, from)
		dst, src = dst[tile:], src[tile*size:]
	}
	if len(dst) > 0 {
		var f [tile]float32
		var head [8 * tile]byte
		loadTile(&f, padTile(&head, src), from)
		copy(dst, f[:])
	}
}

// tileAbsmax returns the F32 bits of the largest magnitude. Without their
// sign, F32 bits are ordered like the values, infinity above every number and
// NaN above infinity.
func tileAbsmax(f *[tile]float32) uint32 {
	var a, b uint32
	for i := 0; i < tile; i += 2 {
		a = max(a, math.Float32bits(f[i])&0x7fffffff)
		b = max(b, math.Float32bits(f[i+1])&0x7fffffff)
	}
	return max(a, b)
}

func q8Portable(dst, src []byte, from dtype.Type) {
	var f [tile]float32
	in := q8Block * from.Size()
	for len(src) >= in && len(dst) >= q8Bytes {
		loadTile(&f, src, from)
		out := (*[q8Bytes]byte)(dst)
		d16, inverse := q8Scales(tileAbsmax(&f))
		binary.LittleEndian.PutUint16(out[:], d16)
		if inverse == 0 {
			clear(out[2:])
		} else {
			for i := range f {
				y := float32(f[i] * inverse)
				half := math.Float32bits(y)&0x80000000 | math.Float32bits(halfDown)
				out[2+i] = byte(int32(y + math.Float32frombits(half)))
			}
		}
		src, dst = src[in:], dst[q8Bytes:]
	}
}

func absmaxPortable(src []byte, from dtype.Type) (most uint32) {
	var f [tile]float32
	in := tile * from.Size()
	for ; len(src) >= in; src = src[in:] {
		loadTile(&f, src, from)
		most = max(most, tileAbsmax(&f))
	}
	if len(src) > 0 {
		var head [8 * tile]byte
		loadTile(&f, padTile(&head, src), from)
		most = max(most, tileAbsmax(&f))
	}
	return most
}

func int8Portable(dst, src []byte, from dtype.Type, scale float32) {
	var f [tile]float32
	in := tile * from.Size()
	for len(src) >= in && len(dst) >= tile {
		loadTile(&f, src, from)
		int8Tile((*[tile]byte)(dst), &f, scale)
		src, dst = src[in:], dst[tile:]
	}
	if len(src) > 0 {
		var head [8 * tile]byte
		var q [tile]byte
		loadTile(&f, padTile(&head, src), from)
		int8Tile(&q, &f, scale)
		copy(dst, q[:])
	}
}

func int8Tile(dst *[tile]byte, f *[tile]float32, scale float32) {
	// Added to 1.5·2²³, a small number's fraction is rounded away, half to
	// even, and the integer is what the bits grew by.
	const magic = 3 << 22
	for i := range f {
		y := float32(f[i] / scale)
		q := int32(math.Float32bits(y+magic)) - int32(math.Float32bits(magic))
		dst[i] = byte(min(max(q, -128), 127))
	}
}

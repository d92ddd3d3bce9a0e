package quant

import (
	_ "embed"
	"encoding/binary"
	"math/bits"
)

// ggml's IQ types take values not one by one but in runs of 4 or 8, each an
// entry of a table (a grid), times a sign each and a scale of 16 or 32 values.
// No scheme here writes them: their encoding is a search that wants to know
// which weights matter. Reference: ggml-common.h (block_iq*, iq*_grid),
// dequantize_row_iq* of ggml-quants.c.

// iqGrids are the grids, one after the other, in 16 bits an entry: the levels
// of its values, the first lowest, in 2 bits each of 8 or 3 bits each of 4. They
// were read out of the reference by asking it for each entry.
//
//go:embed iq_grids.bin
var iqGrids []byte

// What the levels stand for.
var (
	iq2Levels   = [4]float32{8, 25, 43}
	iq3xxLevels = [8]float32{4, 12, 20, 28, 36, 44, 52, 62}
	iq3Levels   = [8]float32{1, 3, 5, 7, 9, 11, 13, 15}
	iq1Levels   = [4]float32{-1, 0, 1}
)

// Where each grid begins, in entries.
const (
	gridIQ2XXS = 0
	gridIQ2XS  = gridIQ2XXS + 256
	gridIQ2S   = gridIQ2XS + 512
	gridIQ3XXS = gridIQ2S + 1024
	gridIQ3S   = gridIQ3XXS + 256
	gridIQ1    = gridIQ3S + 512
)

// grid returns an entry of the grid that begins at start.
func grid(start int, entry uint16) uint16 {
	return binary.LittleEndian.Uint16(iqGrids[2*(start+int(entry)):])
}

// iqSigns returns the signs of 8 values from 7 bits: an even number of them is
// negative.
func iqSigns(b uint32) uint8 {
	b &= 127
	return uint8(b) | uint8(bits.OnesCount32(b)&1)<<7
}

// put2 writes 8 values of an IQ2 grid: x = scale × level × sign.
func put2(dst []float32, entry uint16, signs uint8, scale float32) {
	for j := range dst[:8] {
		dst[j] = iqSigned(float32(scale*iq2Levels[entry>>(2*j)&3]), signs, j)
	}
}

// put3 writes 4 values of an IQ3 grid, whose signs are from bit at on.
func put3(dst []float32, levels *[8]float32, entry uint16, signs uint8, at int, scale float32) {
	for j := range dst[:4] {
		dst[j] = iqSigned(float32(scale*levels[entry>>(3*j)&7]), signs, at+j)
	}
}

// put1 writes 8 values of the IQ1 grid: x = scale × (level + delta).
func put1(dst []float32, entry uint16, delta, scale float32) {
	for j := range dst[:8] {
		dst[j] = float32(scale * float32(iq1Levels[entry>>(2*j)&3]+delta))
	}
}

func iqSigned(x float32, signs uint8, bit int) float32 {
	if signs>>bit&1 != 0 {
		return -x
	}
	return x
}

// readIQ2XXS: d; for each 32 values four entries, then 32 bits: 7 bits of signs
// for each entry, and a scale of 4 bits.
func readIQ2XXS(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[66:] {
		d := half(src)
		for g := range superLen / 32 {
			b := src[2+8*g:][:8]
			rest := binary.LittleEndian.Uint32(b[4:])
			scale := float32(float32(d*(0.5+float32(rest>>28))) * 0.25)
			for l := range 4 {
				put2(dst, grid(gridIQ2XXS, uint16(b[l])), iqSigns(rest>>(7*l)), scale)
				dst = dst[8:]
			}
		}
	}
}

// readIQ2XS: d; for each 8 values 16 bits, an entry of 9 and signs of 7; then
// for each 16 values a scale of 4 bits.
func readIQ2XS(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[74:] {
		d := half(src)
		for i := range superLen / 8 {
			q := binary.LittleEndian.Uint16(src[2+2*i:])
			put2(dst, grid(gridIQ2XS, q&511), iqSigns(uint32(q>>9)), iq2Scale(d, src[66:], i))
			dst = dst[8:]
		}
	}
}

// iq2Scale returns the scale of the i-th 8 values.
func iq2Scale(d float32, scales []byte, i int) float32 {
	s := scales[i/4] >> (i / 2 % 2 * 4) & 15
	return float32(float32(d*(0.5+float32(s))) * 0.25)
}

// readIQ2S: d; 32 entries' lower 8 bits, then their 32 bytes of signs, their
// upper 2 bits, and the scales of readIQ2XS.
func readIQ2S(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[82:] {
		d := half(src)
		for i := range superLen / 8 {
			entry := uint16(src[2+i]) | uint16(src[66+i/4]>>(i%4*2)&3)<<8
			put2(dst, grid(gridIQ2S, entry), src[34+i], iq2Scale(d, src[74:], i))
			dst = dst[8:]
		}
	}
}

// readIQ3XXS: d; 64 entries of 4 values; for each 32 values 32 bits as in
// readIQ2XXS.
func readIQ3XXS(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[98:] {
		d := half(src)
		for g := range superLen / 32 {
			rest := binary.LittleEndian.Uint32(src[66+4*g:])
			scale := float32(float32(d*(0.5+float32(rest>>28))) * 0.5)
			for l := range 8 {
				put3(dst, &iq3xxLevels, grid(gridIQ3XXS, uint16(src[2+8*g+l])), iqSigns(rest>>(l/2*7)), l%2*4, scale)
				dst = dst[4:]
			}
		}
	}
}

// readIQ3S: d; 64 entries' lower 8 bits, then their upper bit, the signs, and
// for each 32 values a scale of 4 bits.
func readIQ3S(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[110:] {
		d := half(src)
		for i := range superLen / 4 {
			g := i / 8
			entry := uint16(src[2+i]) | uint16(src[66+g]>>(i%8)&1)<<8
			scale := float32(d * float32(1+2*(src[106+g/2]>>(g%2*4)&15)))
			put3(dst, &iq3Levels, grid(gridIQ3S, entry), src[74+i/2], i%2*4, scale)
			dst = dst[4:]
		}
	}
}

// iq1Delta is what the levels are off by.
const iq1Delta = 0.125

// readIQ1S: d; 32 entries' lower 8 bits; for each 32 values 16 bits: the upper 3
// of each of four entries, a scale of 3, and the delta's sign.
func readIQ1S(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[50:] {
		d := half(src)
		for i := range superLen / 8 {
			rest := binary.LittleEndian.Uint16(src[34+i/4*2:])
			scale := float32(d * float32(2*(rest>>12&7)+1))
			delta := iqSigned(iq1Delta, uint8(rest>>8), 7)
			put1(dst, grid(gridIQ1, uint16(src[2+i])|rest>>(i%4*3)&7<<8), delta, scale)
			dst = dst[8:]
		}
	}
}

// readIQ1M: 32 entries' lower 8 bits; for each of them 4 bits, the upper 3 and
// the delta's sign; four times 16 bits, each four scales of 3 for 16 values, and
// 4 bits of d, the lowest first.
func readIQ1M(dst []float32, src []byte) {
	for ; len(dst) > 0; src = src[56:] {
		var scales [4]uint16
		var d16 uint16
		for i := range scales {
			scales[i] = binary.LittleEndian.Uint16(src[48+2*i:])
			d16 |= scales[i] >> 12 << (4 * i)
		}
		d := half([]byte{byte(d16), byte(d16 >> 8)})
		for i := range superLen / 8 {
			rest := src[32+i/2] >> (i % 2 * 4)
			scale := float32(d * float32(2*(scales[i/8]>>(i/2%4*3)&7)+1))
			put1(dst, grid(gridIQ1, uint16(src[i])|uint16(rest&7)<<8), iqSigned(iq1Delta, rest, 3), scale)
			dst = dst[8:]
		}
	}
}

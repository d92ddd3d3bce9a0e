//go:build !purego

package quant

import (
	"unsafe"

	"github.com/gantry-ml/gantry/dtype"
)

// laneScratch is what the searches over 8 groups work in: three arrays with a
// row for each value of a group and a lane for each group, then single rows.
type laneScratch [3*32 + 8 + 1][8]float32

func (k *kernels) loadSuper(x *[superLen]float32, src []byte, from dtype.Type) bool {
	src = src[:superLen*from.Size()]
	to, at := (*byte)(unsafe.Pointer(x)), &src[0]
	switch {
	case !k.lanes:
		return loadSuperPortable(x, src, from)
	case from == dtype.F32:
		copy((*[4 * superLen]byte)(unsafe.Pointer(x))[:], src)
	case from == dtype.F16:
		castF16ToF32AVX2(to, at, superLen)
	case from == dtype.BF16:
		castBF16ToF32AVX2(to, at, superLen)
	default:
		return loadSuperPortable(x, src, from)
	}
	return absmaxF32AVX2(to, superLen) < infBits
}

func (k *kernels) fitRange(s *rangeSearch, f *rangeFit, x *[superLen]float32) {
	if !k.lanes {
		s.fitPortable(f, x)
		return
	}
	var scratch laneScratch
	if !s.absolute {
		fitRangeAVX2(&f.scale[0], &x[0], &scratch[0][0], &s.tries[0], len(s.tries), s.steps)
		return
	}
	for h := range 2 {
		fitAbsoluteAVX2(&f.scale[8*h], &x[128*h], &scratch[0][0], &s.tries[0], len(s.tries), s.steps)
	}
}

func (k *kernels) fitSigned(f *signedFit, x *[superLen]float32) {
	if !k.lanes {
		signedPortable(f, x)
		return
	}
	var scratch laneScratch
	for h := range 2 {
		fitSignedAVX2(&f.scale[8*h], &x[128*h], &scratch[0][0], &signedTries[0], len(signedTries))
	}
}

func (k *kernels) round(q *[superLen]uint8, x *[superLen]float32, scales, least *[kGroups]float32, low, high int32) {
	if !k.lanes {
		roundPortable(q, x, scales, least, low, high)
		return
	}
	roundAVX2(&q[0], &x[0], &scales[0], &least[0], low, high)
}

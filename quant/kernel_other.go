//go:build !amd64 || purego

package quant

import "github.com/gantry-ml/gantry/dtype"

// twins returns the kernels that run on this machine, the fastest last.
func twins() []kernels { return []kernels{portable} }

func (*kernels) loadSuper(x *[superLen]float32, src []byte, from dtype.Type) bool {
	return loadSuperPortable(x, src, from)
}

func (*kernels) fitRange(s *rangeSearch, f *rangeFit, x *[superLen]float32) { s.fitPortable(f, x) }

func (*kernels) fitSigned(f *signedFit, x *[superLen]float32) { signedPortable(f, x) }

func (*kernels) round(q *[superLen]uint8, x *[superLen]float32, scales, least *[kGroups]float32, low, high int32) {
	roundPortable(q, x, scales, least, low, high)
}

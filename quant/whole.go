package quant

import (
	"math"

	"github.com/gantry-ml/gantry/dtype"
)

// A scheme of scope Tensor needs the largest finite magnitude of the tensor
// before any of it can be encoded. Whoever has the tensor in parts reads all of
// it once for that, and fits the scheme to what was found:
//
//	absmax = max over the parts of FiniteAbsmax(part)
//	Fit(scheme, absmax).Encode(part)
//
// A scheme that is not fitted takes the rows that it is given for the whole
// tensor.

// wide is a scheme of scope Tensor.
type wide interface {
	Scheme
	fit(absmax float32) Scheme
}

// Fit returns s for parts of a tensor whose largest finite magnitude is
// absmax. Schemes of other scopes need none, and are returned as they are.
func Fit(s Scheme, absmax float32) Scheme {
	switch s := s.(type) {
	case original:
		return original{Fit(s.Scheme, absmax)}
	case wide:
		return s.fit(absmax)
	}
	return s
}

// FiniteAbsmax returns the largest finite magnitude of some elements of a float
// type, 0 without one.
func FiniteAbsmax(src []byte, from dtype.Type) float32 {
	most, _ := absmaxOfFinite(src, from)
	return most
}

// absmaxOfFinite is FiniteAbsmax, and whether all elements are finite.
func absmaxOfFinite(src []byte, from dtype.Type) (most float32, all bool) {
	if most := kernel.absmax(src, from); most < infBits {
		return math.Float32frombits(most), true
	}
	var f [tile]float32
	for len(src) > 0 {
		n := nextTile(&f, &src, from)
		most = max(most, finiteAbsmax(f[:n]))
	}
	return most, false
}

// finiteAbsmax is FiniteAbsmax of values.
func finiteAbsmax(values []float32) (most float32) {
	for _, x := range values {
		if x-x == 0 {
			most = max(most, abs(x))
		}
	}
	return most
}

// whole is what a wide scheme knows of its tensor.
type whole struct {
	absmax float32
	fitted bool
}

func (w whole) absmaxOf(src []byte, from dtype.Type) float32 {
	if w.fitted {
		return w.absmax
	}
	return FiniteAbsmax(src, from)
}

func (w whole) absmaxOfValues(values []float32) float32 {
	if w.fitted {
		return w.absmax
	}
	return finiteAbsmax(values)
}

package values

import (
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
)

// Stats are of a tensor's finite numbers; bools count as 0 and 1.
type Stats struct {
	Min, Max, Mean float64
	NonFinite      int64 // NaN and Inf
	Count          int64 // all elements
}

// StatsOf looks at every element of a tensor of numbers.
func StatsOf(x ort.Tensor) (s Stats) {
	n, err := dtype.Elements(x.Shape)
	if err != nil {
		return s // no tensor in memory has such a shape
	}
	s.Count = n
	var sum float64
	for i := range int(n) {
		v := Number(x.Type, x.Data, i)
		if !Finite(v) {
			s.NonFinite++
			continue
		}
		f := asFloat(v)
		if first := int64(i) == s.NonFinite; first || f < s.Min {
			s.Min = f
		}
		if first := int64(i) == s.NonFinite; first || f > s.Max {
			s.Max = f
		}
		sum += f
	}
	if finite := n - s.NonFinite; finite > 0 {
		s.Mean = sum / float64(finite)
	}
	return s
}

// Finite reports whether a Number is one, and not NaN or Inf.
func Finite(v any) bool {
	f := asFloat(v)
	return f-f == 0
}

func asFloat(v any) float64 {
	switch v := v.(type) {
	case bool:
		if v {
			return 1
		}
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	case float32:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

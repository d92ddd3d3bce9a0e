package quant

import "github.com/gantry-ml/gantry/dtype"

// originalSuffix is what a scheme's name gets where the originals are kept,
// and what the plane that holds them adds to a tensor's name.
const originalSuffix = "+original"

// WithOriginal returns s with one more plane, the last: the elements as they
// were stored. Decode reads s's own planes.
func WithOriginal(s Scheme) Scheme {
	if _, ok := s.(original); ok {
		return s
	}
	return original{s}
}

// HasOriginal reports whether s keeps the originals.
func HasOriginal(s Scheme) bool {
	_, ok := s.(original)
	return ok
}

// original is a scheme that keeps what it was given beside what it made.
type original struct{ Scheme }

func (o original) Name() string { return o.Scheme.Name() + originalSuffix }

func (o original) Layout(from dtype.Type, cols int64) (Layout, error) {
	l, err := o.Scheme.Layout(from, cols)
	if err != nil {
		return Layout{}, err
	}
	kept, err := none{}.Layout(from, cols)
	if err != nil {
		return Layout{}, err
	}
	p := kept.Planes[0]
	p.Role, p.Suffix = Original, originalSuffix
	l.Planes = append(l.Planes[:len(l.Planes):len(l.Planes)], p)
	return l, nil
}

func (o original) Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int) {
	own := len(dst) - 1
	o.Scheme.Encode(dst[:own], src, from, rows, cols)
	none{}.Encode(dst[own:], src, from, rows, cols)
}

func (o original) Decode(dst []float32, src [][]byte, from dtype.Type, rows, cols int) {
	o.Scheme.Decode(dst, src[:len(src)-1], from, rows, cols)
}

package verify

import "github.com/gantry-ml/gantry/dtype"

// values counts NaN and infinities in a tensor whose bytes come in order.
type values struct {
	dtype.NonFinite
	of    dtype.Type // Invalid where no element is looked at
	carry []byte     // of an element that the last bytes ended in
}

// newValues counts in a tensor of a type.
func newValues(of dtype.Type) *values {
	if !of.CanBeNonFinite() {
		of = dtype.Invalid
	}
	return &values{of: of}
}

// add looks at the next bytes.
func (v *values) add(p []byte) {
	size := v.of.Size()
	if size == 0 {
		return
	}
	if len(v.carry) > 0 {
		n := min(size-len(v.carry), len(p))
		v.carry, p = append(v.carry, p[:n]...), p[n:]
		if len(v.carry) < size {
			return
		}
		v.NonFinite = v.Plus(v.of.NonFinite(v.carry))
		v.carry = v.carry[:0]
	}
	whole := len(p) / size * size
	v.NonFinite = v.Plus(v.of.NonFinite(p[:whole]))
	v.carry = append(v.carry, p[whole:]...)
}

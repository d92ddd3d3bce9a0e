package quant

import (
	"fmt"

	"github.com/gantry-ml/gantry/dtype"
)

// maxGroup keeps the columns of a group, and of the words it ends in, far from
// an int's end.
const maxGroup = 1 << 20

// custom is packed with its bits, symmetry and group given in its name.
type custom struct{ packed }

func (s custom) Name() string {
	return fmt.Sprintf("custom:bits=%d,symmetric=%t,group=%d", s.bits, s.symmetric, s.group)
}

func (custom) form() (params, defaults string) {
	return "bits=2..8,symmetric=true|false,group=N", "4,true,128"
}

func (s custom) with(key, value string) (Scheme, error) {
	var err error
	switch key {
	case "bits":
		s.bits, err = parseInt(value, 2, 8)
	case "symmetric":
		s.symmetric, err = parseBool(value)
	case "group":
		s.group, err = parseInt(value, 0, maxGroup)
	default:
		err = fmt.Errorf("want bits, symmetric or group")
	}
	return s, err
}

func (s custom) Layout(from dtype.Type, cols int64) (Layout, error) {
	s.name = s.Name() // which errors say
	return s.packed.Layout(from, cols)
}

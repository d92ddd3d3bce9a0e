package quant

import (
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// schemes are all there are, in the order that messages list them.
var schemes = []Scheme{
	none{},
	cast{dtype.F32},
	cast{dtype.F16},
	cast{dtype.BF16},
	rowInt8{},
	q8_0{},
	q4_0{},
	q4_1{},
	q5_0{},
	q5_1{},
	q2K{},
	q3K{},
	q4K{},
	q5K{},
	q6K{},
	iq4_nl{},
	mxfp4{},
}

// Parse returns the scheme that --quant calls name, or that a plan calls name
// where the originals are kept ("int8+original"). An unknown name is an error
// of class usage that lists the known ones.
func Parse(name string) (Scheme, error) {
	base, keep := strings.CutSuffix(name, originalSuffix)
	for _, s := range schemes {
		if s.Name() == base && keep {
			return WithOriginal(s), nil
		} else if s.Name() == base {
			return s, nil
		}
	}
	return nil, recovery.Errorf(recovery.Usage,
		"unknown quantization scheme %q: want one of %s", name, strings.Join(Names(), ", "))
}

// Names returns the schemes' names.
func Names() []string {
	names := make([]string, len(schemes))
	for i, s := range schemes {
		names[i] = s.Name()
	}
	return names
}

// checkFloat refuses an input type that s cannot read as numbers.
func checkFloat(s Scheme, from dtype.Type) error {
	if from.Float() {
		return nil
	}
	return &recovery.Error{
		Class: recovery.Unsupported,
		Op:    "quantize to " + s.Name(),
		Err:   fmt.Errorf("cannot read elements of type %s, only F32, F16, BF16 and F64", from),
		Hint:  "leave the tensor as it is with none",
	}
}

// checkCols refuses a row that does not divide into whole blocks.
func checkCols(s Scheme, cols, block int64) error {
	if cols >= 0 && cols%block == 0 {
		return nil
	}
	return &recovery.Error{
		Class: recovery.Unsupported,
		Op:    "quantize to " + s.Name(),
		Err:   fmt.Errorf("a row of %d elements does not divide into blocks of %d", cols, block),
		Hint:  "store the tensor with f16 or none",
	}
}

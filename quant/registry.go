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
	packed{name: "int4", bits: 4, symmetric: true, group: 128},
	packed{name: "int2", bits: 2, symmetric: true, group: 128},
	sign{},
	fp8{to: dtype.F8E4M3},
	fp8{to: dtype.F8E5M2},
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
	nf4{},
	nvfp4{},
	nbits{bits: 4, block: nbitsBlock, symmetric: true},
	nbits{bits: 8, block: nbitsBlock, symmetric: true},
	custom{packed{bits: 4, symmetric: true, group: 128}},
}

// Parse returns the scheme that --quant calls name, or that a plan calls name
// where the originals are kept ("int8+original"). An unknown name is an error
// of class usage that lists the known ones; so are parameters that the scheme
// does not have.
func Parse(name string) (Scheme, error) {
	if base, ok := strings.CutSuffix(name, originalSuffix); ok {
		s, err := Parse(base)
		if err != nil {
			return nil, err
		}
		return WithOriginal(s), nil
	}
	base, params, has := strings.Cut(name, ":")
	for _, s := range schemes {
		if baseName(s) != base {
			continue
		}
		if !has {
			return s, nil
		}
		return tune(s, params)
	}
	return nil, recovery.Errorf(recovery.Usage,
		"unknown quantization scheme %q: want one of %s", name, strings.Join(Forms(), ", "))
}

// Names returns the schemes' names, without parameters.
func Names() []string {
	names := make([]string, len(schemes))
	for i, s := range schemes {
		names[i] = baseName(s)
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

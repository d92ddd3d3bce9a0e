package header

import (
	"unsafe"

	"github.com/gantry-ml/gantry/dtype"
)

// Tensor is one named array. Its bytes are row-major and little-endian, in
// plain rows unless it has a Form. Where a GGUF file's architecture is known it
// has Hugging Face's name, and its form says what llama.cpp's converter did to
// it; a tensor that holds all experts of a layer counts as one for each.
//
// An index of a large model has 100,000 of them: the order of the fields keeps
// them small.
type Tensor struct {
	Name  string     `json:"name"`
	DType dtype.Type `json:"dtype"`
	// Transposed says that a weight of a linear layer is stored [in, out], as
	// the second operand of a matrix product, and not [out, in].
	Transposed bool `json:"transposed,omitempty"`
	// Codes says that the bytes are packed integers, though DType is of floats:
	// a quantizer stored them under it.
	Codes bool  `json:"codes,omitempty"`
	File  int32 `json:"file"` // index into Index.Files
	// Shape's product overflows nothing. A dimension above 2^63-1, which only
	// a tensor without elements can have, is held as 2^63-1.
	Shape  []int64 `json:"shape"`
	Offset int64   `json:"offset"` // absolute, in the file
	Bytes  int64   `json:"bytes"`
	Form   string  `json:"form,omitempty"` // as quant/form names it
}

// TensorBytes is what a Tensor takes, without its name and shape.
const TensorBytes = int64(unsafe.Sizeof(Tensor{}))

// OutIn returns the shape of a weight as if it were stored [out, in].
func (t *Tensor) OutIn() []int64 {
	if t.Transposed && len(t.Shape) == 2 {
		return []int64{t.Shape[1], t.Shape[0]}
	}
	return t.Shape
}

// Elements counts by bytes, which have been checked against the file.
func (t *Tensor) Elements() int64 {
	elements, bytes := t.DType.Block()
	return t.Bytes / bytes * elements
}

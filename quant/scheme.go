package quant

import "github.com/gantry-ml/gantry/dtype"

// Scheme is one way to store a tensor, seen as rows × cols, row-major.
// Schemes have no state and may be used from several goroutines.
type Scheme interface {
	// Name is the scheme as --quant writes it, with its parameters.
	Name() string
	// Target is which tensors the scheme is meant for.
	Target() Target
	// Layout returns the planes that rows of cols elements of type from
	// become. It fails where they cannot become this scheme: wrong input
	// type, or cols does not divide into blocks.
	Layout(from dtype.Type, cols int64) (Layout, error)
	// Encode turns rows × cols elements of type from in src into the planes
	// of dst: dst[p] holds rows × Planes[p].RowBytes(cols) bytes. src may be
	// unaligned. It allocates nothing. Sizes are the caller's promise.
	Encode(dst [][]byte, src []byte, from dtype.Type, rows, cols int)
	// Decode is the inverse, up to the scheme's error, into rows × cols
	// float32. from is the type that was encoded.
	Decode(dst []float32, src [][]byte, from dtype.Type, rows, cols int)
	// Bound writes how far from each of rows × cols F32 values in src Decode
	// of their encoding may be, or an infinity where nothing is promised: for
	// what is not finite, and beyond the scheme's range.
	Bound(dst []float64, src []float32, rows, cols int)
}

// Target is a set of tensors. Only tensors of floats are ever in it.
type Target uint8

// What schemes are meant for.
const (
	Nothing  Target = iota // tensors stay as they are stored
	Floats                 // every tensor: casts
	Matrices               // every matrix, embedding and head too, as llama.cpp's --pure has it
	Linear                 // the weights of linear layers
)

// Scope is what values are encoded together: one cannot be told without the
// others.
type Scope uint8

// The scopes.
const (
	Block  Scope = iota // Layout.Align columns of a row
	Row                 // a whole row, for its scale
	Tensor              // all of it: see Fit
)

// Layout is the shape of one encoded row.
type Layout struct {
	// Align is the number of columns that are encoded together: a cut along
	// the columns falls between multiples of it or straddles. 1 for
	// element-wise schemes.
	Align  int64
	Scope  Scope
	Planes []Plane
}

// Role is what a plane is for.
type Role uint8

// The roles of planes.
const (
	Values      Role = iota // elements, codes, or blocks that hold everything
	Scales                  // one for each unit's columns
	ZeroPoints              // the codes that stand for zero
	GlobalScale             // what Scales are divided by
	Original                // the elements as they were stored
)

// Plane is one array of an encoded tensor: the weight itself, its scales.
type Plane struct {
	Role   Role       `json:"role"`
	Suffix string     `json:"suffix,omitempty"` // what the tensor's name gets: "" or "_scale"
	DType  dtype.Type `json:"dtype"`            // of its elements; U8 for ggml blocks
	Cols   int64      `json:"cols"`             // source columns that one unit covers; 0: the whole row
	Unit   int64      `json:"unit"`             // bytes of one unit
	// Shared says that every row has the same unit, which is the tensor's: so
	// that any rows are complete by themselves.
	Shared bool `json:"shared,omitempty"`
}

// RowBytes returns the bytes that cols source columns take in the plane. cols
// is a multiple of Cols, or Cols is 0 and they are a whole row or a part of
// one (which carries the row's unit too).
func (p Plane) RowBytes(cols int64) int64 {
	if p.Cols == 0 {
		return p.Unit
	}
	return (cols + p.Cols - 1) / p.Cols * p.Unit
}

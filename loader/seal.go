package loader

// SealReport is what sealing a rank found.
type SealReport struct {
	Digest     [16]byte // xxh3-128 over the digests of the rank's pieces, in chunk order
	Validation Validation
}

// Validation is the check of one rank: x·Wᵀ of one placed tensor in ONNX
// Runtime, compared with our own arithmetic.
type Validation struct {
	Ran       bool
	Reason    string  // why it did not run
	Runtime   string  // "onnxruntime 1.29.0"
	Tensor    string  // which was multiplied
	Method    string  // "wrapped": the arena's memory itself; "decoded": rows decoded to f32 first
	Rows      int64   // of W that were used
	MaxError  float64 // relative to the largest |y|
	NonFinite int64   // NaN and Inf values in the rank, where asked for
}

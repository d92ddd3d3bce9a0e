// Package ggml runs the quantizers of an installed libggml, so that the
// benchmarks of package quant can time them beside its own. Nothing but those
// imports it: the library itself knows ggml's formats, not its code.
package ggml

// Quantizer turns F32 into a type's blocks, by rows of whole blocks.
type Quantizer interface {
	// Quantize writes the blocks that src becomes to dst, which has room for
	// them.
	Quantize(dst []byte, src []float32)
}

// types are ggml's own numbers (enum ggml_type) and the names of the reference
// quantizers, by the name of the scheme of package quant.
var types = map[string]struct {
	number    int
	reference string
}{
	"f16":    {1, "ggml_fp32_to_fp16_row"},
	"q4_0":   {2, "quantize_row_q4_0_ref"},
	"q4_1":   {3, "quantize_row_q4_1_ref"},
	"q5_0":   {6, "quantize_row_q5_0_ref"},
	"q5_1":   {7, "quantize_row_q5_1_ref"},
	"q8_0":   {8, "quantize_row_q8_0_ref"},
	"q2_K":   {10, "quantize_row_q2_K_ref"},
	"q3_K":   {11, "quantize_row_q3_K_ref"},
	"q4_K":   {12, "quantize_row_q4_K_ref"},
	"q5_K":   {13, "quantize_row_q5_K_ref"},
	"q6_K":   {14, "quantize_row_q6_K_ref"},
	"iq4_nl": {20, "quantize_row_iq4_nl_ref"},
	"bf16":   {30, "ggml_fp32_to_bf16_row_ref"},
	"mxfp4":  {39, "quantize_row_mxfp4_ref"},
}

package quant

import (
	"strings"

	"github.com/gantry-ml/gantry/dtype"
)

// blockReaders read ggml's block types: len(dst) elements, whole blocks of
// them, as ggml's dequantize_row_TYPE does.
var blockReaders = map[dtype.Type]func(dst []float32, src []byte){
	dtype.Q8_1:   readQ8_1,
	dtype.Q8_K:   readQ8K,
	dtype.Q1_0:   readQ1_0,
	dtype.Q2_0:   readQ2_0,
	dtype.IQ4_XS: readIQ4XS,
	dtype.TQ1_0:  readTQ1,
	dtype.TQ2_0:  readTQ2,
	dtype.NVFP4:  readNVFP4,

	dtype.IQ1_S: readIQ1S, dtype.IQ1_M: readIQ1M,
	dtype.IQ2_XXS: readIQ2XXS, dtype.IQ2_XS: readIQ2XS, dtype.IQ2_S: readIQ2S,
	dtype.IQ3_XXS: readIQ3XXS, dtype.IQ3_S: readIQ3S,
}

// init adds the types that schemes write.
func init() {
	for _, s := range schemes {
		if t, ok := BlockType(s); ok {
			blockReaders[t] = func(dst []float32, src []byte) {
				s.Decode(dst, [][]byte{src}, dtype.F32, 1, len(dst))
			}
		}
	}
}

// BlockType returns the type that ggml stores a scheme's blocks as: those of
// its schemes, which are for matrices, have its names.
func BlockType(s Scheme) (dtype.Type, bool) {
	t, err := dtype.Parse(strings.ToUpper(s.Name()))
	return t, err == nil && t.Quantized() && s.Target() == Matrices
}

// Decodes reports whether Decode reads a type: floats, and ggml's blocks.
func Decodes(t dtype.Type) bool {
	_, ok := blockReaders[t]
	return ok || t.Float()
}

// Decode reads len(dst) elements of a stored type, whole blocks of them, into
// F32: exactly, but for F64, which it rounds. What Decodes does not know reads
// as NaN, which nothing takes for a weight.
func Decode(dst []float32, src []byte, from dtype.Type) {
	if read, ok := blockReaders[from]; ok {
		read(dst, src)
		return
	}
	decodeFloats(dst, src, from)
}

package quant

// Format is how safetensors files hold a scheme, in the words that
// quantization_config has for it.
type Format struct {
	// Method is quant_method: CompressedTensors or BitsAndBytes, or Plain,
	// which needs no quantization_config.
	Method string
	// What follows describes the weights to compressed-tensors.
	Format    string // "pack-quantized"
	Bits      int
	Float     bool // else integers
	Symmetric bool
	Strategy  string // what shares a scale: "channel", "group", "tensor_group", "tensor"
	Group     int    // columns of a group, 0 without
}

// The methods.
const (
	Plain             = "plain"
	CompressedTensors = "compressed-tensors"
	BitsAndBytes      = "bitsandbytes"
)

// published is a scheme that safetensors files have a layout for.
type published interface{ format() Format }

// FormatOf returns how safetensors files hold a scheme, without the originals
// beside it; false where no layout for it has been published.
func FormatOf(s Scheme) (Format, bool) {
	if o, ok := s.(original); ok {
		s = o.Scheme
	}
	p, ok := s.(published)
	if !ok {
		return Format{}, false
	}
	return p.format(), true
}

func (none) format() Format { return Format{Method: Plain} }

func (cast) format() Format { return Format{Method: Plain} }

func (nf4) format() Format { return Format{Method: BitsAndBytes} }

func (rowInt8) format() Format {
	return Format{Method: CompressedTensors, Format: "int-quantized", Bits: 8, Symmetric: true, Strategy: "channel"}
}

func (s packed) format() Format {
	f := Format{Method: CompressedTensors, Format: "pack-quantized", Bits: s.bits, Symmetric: s.symmetric, Strategy: "group", Group: s.group}
	if s.group == 0 {
		f.Strategy = "channel"
	}
	return f
}

func (nvfp4) format() Format {
	return Format{Method: CompressedTensors, Format: "nvfp4-pack-quantized", Bits: 4, Float: true, Symmetric: true, Strategy: "tensor_group", Group: nvfp4Block}
}

func (s fp8Tensor) format() Format {
	f := s.fp8.format()
	f.Strategy = "tensor"
	return f
}

func (fp8) format() Format {
	return Format{Method: CompressedTensors, Format: "float-quantized", Bits: 8, Float: true, Symmetric: true, Strategy: "channel"}
}

package quant

// Config asks for a quantization. The zero value keeps tensors as they are
// stored.
type Config struct {
	Scheme string // as Parse reads it; "" is "none"
}

// Validate reports an unknown scheme, with class usage.
func (c Config) Validate() error {
	if c.Scheme == "" {
		return nil
	}
	_, err := Parse(c.Scheme)
	return err
}

package quant

import (
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

func TestConfigResolve(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		config Config
		want   string // "" is a usage error
	}{
		{Config{}, "none"},
		{Config{Scheme: "q8_0"}, "q8_0"},
		{Config{Scheme: "q4_K_M"}, "q4_K_M"},
		{Config{Scheme: "int8", Symmetric: &yes}, "int8"},
		{Config{Scheme: "int8", GroupSize: -1}, "int8"},
		{Config{Scheme: "int8", GroupSize: 64}, "custom:bits=8,symmetric=true,group=64"},
		{Config{Scheme: "int8", Symmetric: &no}, "custom:bits=8,symmetric=false,group=0"},
		{Config{Scheme: "int4", GroupSize: 128}, "int4"},
		{Config{Scheme: "int4", GroupSize: 32, Symmetric: &no}, "custom:bits=4,symmetric=false,group=32"},
		{Config{Scheme: "int2", GroupSize: -1}, "custom:bits=2,symmetric=true,group=0"},
		{Config{Scheme: "custom:bits=3", GroupSize: 32}, "custom:bits=3,symmetric=true,group=32"},
		{Config{Scheme: "custom", Symmetric: &no}, "custom:bits=4,symmetric=false,group=128"},
		{Config{Scheme: "custom:bits=3,group=32", GroupSize: 64}, ""}, // said twice
		{Config{Scheme: "ort_nbits4", GroupSize: 64, Symmetric: &no}, "ort_nbits4:block=64,symmetric=false"},
		{Config{Scheme: "ort_nbits4", GroupSize: -1}, ""}, // its blocks are 16 to 256
		{Config{Scheme: "int4", GroupSize: 1 << 40}, ""},
		{Config{Scheme: "int4", GroupSize: -2}, ""},
		{Config{Scheme: "nf4", GroupSize: 128}, ""},
		{Config{Scheme: "q9"}, ""},
		{Config{Scheme: "q8_0", GroupSize: 64}, ""},
		{Config{Scheme: "q8_0", Symmetric: &no}, ""},
		{Config{Scheme: "q4_K_M", GroupSize: 64}, ""},
		{Config{Symmetric: &yes}, ""},
	} {
		got, err := c.config.Resolve()
		if got != c.want || (c.want == "") != (recovery.ClassOf(err) == recovery.Usage) {
			t.Errorf("%+v: %q, %v, want %q", c.config, got, err, c.want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := (Config{Overrides: []Override{{"*", "q8_0"}}}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{Scheme: "q9"}, {Overrides: []Override{{"*", "q9"}}}} {
		if err := c.Validate(); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%+v: %v, want a usage error", c, err)
		}
	}
}

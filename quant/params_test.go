package quant

import (
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

func TestParameters(t *testing.T) {
	for name, want := range map[string]string{
		"custom":                                 "custom:bits=4,symmetric=true,group=128",
		"custom:bits=3":                          "custom:bits=3,symmetric=true,group=128",
		"custom:group=64,bits=8,symmetric=false": "custom:bits=8,symmetric=false,group=64",
		"custom:group=0":                         "custom:bits=4,symmetric=true,group=0",
		"fp8_e4m3:scale=channel":                 "fp8_e4m3",
		"fp8_e5m2:scale=tensor":                  "fp8_e5m2:scale=tensor",
		"ort_nbits4:symmetric=true,block=32":     "ort_nbits4",
		"ort_nbits8:block=64":                    "ort_nbits8:block=64,symmetric=true",
		"custom:bits=3+original":                 "custom:bits=3,symmetric=true,group=128+original",
	} {
		s, err := Parse(name)
		if err != nil || s.Name() != want {
			t.Errorf("Parse(%q) = %v, %v, want %s", name, s, err, want)
			continue
		}
		if again, err := Parse(s.Name()); err != nil || again != s {
			t.Errorf("Parse(%q) = %v, %v: its own name reads otherwise", s.Name(), again, err)
		}
	}
	for _, name := range []string{
		"custom:", "custom:bits", "custom:bits=", "custom:bits=1", "custom:bits=9", "custom:bits=+4", "custom:bits=04",
		"custom:bits=4,bits=4", "custom:symmetric=yes", "custom:group=-1", "custom:group=9999999", "custom:block=4",
		"custom:bits=4,", "fp8_e4m3:scale=row", "ort_nbits4:block=48", "ort_nbits4:block=512", "nvfp4:block=16", "int4:bits=4", "int8:group=4", "q8_0:", "Custom", "custom :bits=4", "",
	} {
		if s, err := Parse(name); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("Parse(%q) = %v, %v, want a usage error", name, s, err)
		}
	}
}

// FuzzParse holds that no name is a reason to panic, and that the name of what
// it gave reads as the same.
func FuzzParse(f *testing.F) {
	for _, name := range append(Names(), tunings...) {
		f.Add(name)
		f.Add(name + originalSuffix)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := Parse(name)
		if err != nil {
			if recovery.ClassOf(err) != recovery.Usage {
				t.Fatalf("Parse(%q): %v, want class usage", name, err)
			}
			return
		}
		if again, err := Parse(s.Name()); err != nil || again != s {
			t.Fatalf("Parse(%q) is %s, which reads as %v, %v", name, s.Name(), again, err)
		}
		if l, err := s.Layout(dtype.F32, 1<<20); err == nil && len(l.Planes) == 0 {
			t.Fatalf("%s has no planes", name)
		}
	})
}

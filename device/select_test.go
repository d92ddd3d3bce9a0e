package device

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/recovery"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"": "auto", "auto": "auto", "cpu": "cpu", "cuda:0": "cuda:0", "cuda": "cuda", "cpu,cuda": "cpu,cuda", "cuda:12,cpu,cuda:0": "cuda:12,cpu,cuda:0",
	} {
		s, err := Parse(in)
		if err != nil || s.String() != want {
			t.Errorf("Parse(%q): %v, %v; want %s", in, s, err, want)
		}
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Selection
		if err := back.UnmarshalText(text); err != nil || back.String() != want {
			t.Errorf("%q does not come back: %v, %v", text, back, err)
		}
	}
	for _, in := range []string{"gpu", "cuda,cuda:0", "cuda:1,cuda", "cuda,cuda", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda:x", "cpu,cpu", "auto,cpu", "cpu,", ",", " cpu", "CPU", "cuda:99999999999999999999"} {
		if s, err := Parse(in); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("Parse(%q): %v, %v; want class usage", in, s, err)
		}
	}
	if Auto().String() != "auto" || (Selection{}).String() != "auto" {
		t.Error("the zero selection is not auto")
	}
}

func TestResolve(t *testing.T) {
	bare := Inventory{CPU: CPUInfo{Name: "A CPU", Memory: Memory{Total: 100, Free: 60}}, NoGPU: "NVML library not found"}
	eight := bare
	eight.GPUs, eight.NoGPU = make([]GPU, 8), ""
	for i := range eight.GPUs {
		eight.GPUs[i].ID = fmt.Sprint("cuda:", i)
	}
	for _, tt := range []struct {
		name, selection string
		inv             Inventory
		why             string // "" where it resolves to the CPU
	}{
		{"auto", "auto", bare, ""},
		{"cpu", "cpu", bare, ""},
		{"auto beside GPUs", "auto", eight, ""},
		{"cuda without a driver", "cuda:0", bare, "there is no GPU: NVML library not found"},
		{"cuda in a list", "cpu,cuda:0", bare, "there is no GPU"},
		{"cuda past the last", "cuda:8", eight, "this machine has 8 GPUs, the last is cuda:7"},
		{"any cuda without a driver", "cuda", bare, "use device cuda: there is no GPU"},
		{"any cuda in this build", "cuda", eight, "use device cuda:0: this build places on CPU only"},
		{"cuda in this build", "cuda:7", eight, "this build places on CPU only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse(tt.selection)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Resolve(tt.inv)
			if tt.why != "" {
				if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("%v, want out_of_capacity and %q", err, tt.why)
				}
				return
			}
			if want := []Info{{ID: "cpu", Name: "A CPU", Total: 100, Free: 60, NUMA: -1}}; err != nil || !cmp.Equal(got, want) {
				t.Errorf("%v, %v; want %v", got, err, want)
			}
		})
	}
}

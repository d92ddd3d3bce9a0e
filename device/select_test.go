package device

import (
	"fmt"
	"slices"
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
	three := bare
	three.GPUs, three.NoGPU = make([]GPU, 3), ""
	for i := range three.GPUs {
		three.GPUs[i].ID = fmt.Sprint("cuda:", i)
	}
	split := three
	split.GPUs = slices.Clone(three.GPUs)
	split.GPUs[1].MIG = true
	only := func(ids ...string) func(string) error {
		return func(id string) error {
			if slices.Contains(ids, id) {
				return nil
			}
			return recovery.Errorf(recovery.OutOfCapacity, "the provider is missing")
		}
	}
	all, none := only("cuda:0", "cuda:1", "cuda:2"), only()
	for _, tt := range []struct {
		name, selection string
		inv             Inventory
		usable          func(string) error
		want            string // ids, or why not
	}{
		{"auto", "auto", bare, none, "cpu"},
		{"cpu", "cpu", bare, none, "cpu"},
		{"auto beside GPUs", "auto", three, all, "cuda:0 cuda:1 cuda:2"},
		{"auto beside GPUs, one of which works", "auto", three, only("cuda:1"), "cuda:1"},
		{"auto beside GPUs of no use", "auto", three, none, "cpu"},
		{"auto beside a split GPU", "auto", split, all, "cuda:0 cuda:2"},
		{"a split GPU", "cuda:0,cuda:1", split, all, "use device cuda:1: it is split (MIG)"},
		{"cpu beside GPUs", "cpu", three, all, "cpu"},
		{"cuda without a driver", "cuda:0", bare, all, "use device cuda:0: there is no GPU: NVML library not found"},
		{"cuda in a list", "cpu,cuda:0", bare, all, "there is no GPU"},
		{"cuda past the last", "cuda:3", three, all, "this machine has 3 GPUs, the last is cuda:2"},
		{"any cuda without a driver", "cuda", bare, all, "use device cuda: there is no GPU"},
		{"any cuda", "cuda", three, all, "cuda:0 cuda:1 cuda:2"},
		{"any cuda, one of which works", "cuda", three, only("cuda:1"), "the provider is missing"},
		{"in the order asked for", "cuda:2,cpu,cuda:0", three, all, "cuda:2 cpu cuda:0"},
		{"a GPU of no use", "cuda:1", three, none, "the provider is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse(tt.selection)
			if err != nil {
				t.Fatal(err)
			}
			devices, err := s.resolve(tt.inv, tt.usable)
			if err != nil {
				if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want out_of_capacity and %q", err, tt.want)
				}
				return
			}
			var got []string
			for _, d := range devices {
				got = append(got, d.ID)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	got, err := Auto().resolve(bare, none)
	if want := []Info{{ID: "cpu", Name: "A CPU", Total: 100, Free: 60, NUMA: -1}}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

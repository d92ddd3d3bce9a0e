package require

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

func TestCheck(t *testing.T) {
	machine := Machine{CPU: []string{"avx", "avx2"}, Devices: []Device{
		{ID: "cpu", Free: 1 << 30}, {ID: "cuda:0", Compute: "7.5", Free: 8 << 30}, {ID: "cuda:1", Compute: "10.0", Free: 4 << 30}}}
	host := Machine{CPU: []string{"avx"}, Devices: machine.Devices[:1]}
	for _, c := range []struct {
		r    Requirements
		m    Machine
		says string // "" where the machine will do
	}{
		{Requirements{}, machine, ""},
		{Requirements{}, Machine{}, ""},
		{Requirements{Memory: 1}, Machine{}, "no device"},
		{Requirements{CPU: []string{"avx", "avx2"}}, machine, ""},
		{Requirements{CPU: []string{"avx", "avx512f"}}, machine, "no avx512f"},
		{Requirements{Device: "cpu"}, machine, ""},
		{Requirements{Device: "cuda"}, machine, ""},
		{Requirements{Device: "cuda"}, host, "cuda device is required"},
		{Requirements{Compute: "7.5"}, machine, ""},
		{Requirements{Compute: "8"}, machine, ""}, // 10.0 is more, not less
		{Requirements{Compute: "10.1"}, machine, "compute capability 10.1"},
		{Requirements{Compute: "7.0"}, host, "cpu has none"},
		{Requirements{Memory: 8 << 30}, machine, ""},
		{Requirements{Memory: 8 << 30, Compute: "8.0"}, machine, "required"}, // no device has both
		{Requirements{Memory: 1<<30 + 1}, host, "bytes of free memory"},
	} {
		err := c.r.Check(c.m)
		if c.says == "" && err != nil || c.says != "" && (recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: %v, want %q", c.r, err, c.says)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, r := range []Requirements{{}, {Device: "cpu", CPU: []string{"avx"}, Memory: 1}, {Device: "cuda", Compute: "8.6"}, {Compute: "9"}} {
		if err := r.Validate(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, r := range []Requirements{{Device: "tpu"}, {Device: "cuda:0"}, {Compute: "sm_80"}, {Compute: "8."}, {Compute: "-8"}, {Device: "cpu", Compute: "8.0"}, {Memory: -1}, {CPU: []string{""}}} {
		if err := r.Validate(); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%+v: %v, want class usage", r, err)
		}
	}
}

func TestAnd(t *testing.T) {
	for _, c := range []struct{ a, b, want Requirements }{
		{Requirements{}, Requirements{}, Requirements{}},
		{Requirements{Device: "cuda"}, Requirements{Compute: "8.0"}, Requirements{Device: "cuda", Compute: "8.0"}},
		{Requirements{Compute: "9"}, Requirements{Compute: "10.0"}, Requirements{Compute: "10.0"}},
		{Requirements{CPU: []string{"f16c"}, Memory: 2}, Requirements{CPU: []string{"avx", "f16c"}, Memory: 1}, Requirements{CPU: []string{"avx", "f16c"}, Memory: 2}},
	} {
		for _, both := range [][2]Requirements{{c.a, c.b}, {c.b, c.a}} {
			got, err := both[0].And(both[1])
			if err != nil || got.String() != c.want.String() {
				t.Errorf("%v and %v: %v, %v; want %v", both[0], both[1], got, err, c.want)
			}
		}
	}
	for _, c := range [][2]Requirements{{{Device: "cuda"}, {Device: "cpu"}}, {{Device: "cpu"}, {Compute: "8.0"}}} {
		if _, err := c[0].And(c[1]); recovery.ClassOf(err) != recovery.OutOfCapacity {
			t.Errorf("%v and %v: %v", c[0], c[1], err)
		}
	}
	r := Requirements{Device: "cuda", Compute: "8.0", CPU: []string{"avx", "fma"}, Memory: 1024}
	if got := r.String(); got != "device=cuda compute=8.0 cpu=avx,fma memory=1024" {
		t.Error(got)
	}
}

package device

import (
	"testing"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
)

// TestMeeting holds this build's one kind of device against requirements.
func TestMeeting(t *testing.T) {
	inv := Inventory{CPU: CPUInfo{Features: []string{"avx"}, Memory: Memory{Total: 100, Free: 60}}}
	for _, c := range []struct {
		r    require.Requirements
		want recovery.Class
	}{
		{require.Requirements{}, ""},
		{require.Requirements{Device: "cpu", CPU: []string{"avx"}, Memory: 60}, ""},
		{require.Requirements{Memory: 61}, recovery.OutOfCapacity},
		{require.Requirements{Device: "cuda"}, recovery.OutOfCapacity},
		{require.Requirements{CPU: []string{"avx2"}}, recovery.OutOfCapacity},
	} {
		got, err := Auto().Meeting(inv, c.r)
		if recovery.ClassOf(err) != c.want || err == nil && (len(got) != 1 || got[0].ID != CPU) {
			t.Errorf("%+v: %+v, %v", c.r, got, err)
		}
	}
}

package ort

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
)

// maxAnonymous is what the environment, and what MulT leaves behind, may
// take of the 96 MiB that a load may use besides its arenas and staging.
const maxAnonymous = 40 << 20

// TestMemory: multiplying large weights of each type leaves little behind.
func TestMemory(t *testing.T) {
	r := openRuntime(t)
	const rows, cols = 4096, 4096
	w := Weight{Rows: rows, Cols: cols, ScaleType: dtype.F32}
	data, scales := inArena(t, make([]byte, 4*rows*cols)), make([]byte, 4*rows)
	x := draw(cols, rand.New(rand.NewPCG(1, 1)))
	for i := range data {
		data[i] = 1 // present before, so that it does not count
	}
	before := anonymous(t)
	for _, typ := range []dtype.Type{dtype.F32, dtype.BF16, dtype.I8} {
		w.Type, w.Data, w.Scales = typ, data[:rows*cols*typ.Size()], nil
		if typ == dtype.I8 {
			w.Scales = scales
		}
		if _, err := r.MulT(x, 1, w); err != nil {
			t.Fatal(err)
		}
		grown := anonymous(t) - before
		t.Logf("%s: %.1f MiB more anonymous memory", typ, float64(grown)/(1<<20))
		if grown > maxAnonymous {
			t.Errorf("%s: %d bytes of anonymous memory stay, at most %d may", typ, grown, maxAnonymous)
		}
	}
}

// anonymous is this process's resident anonymous memory, bytes.
func anonymous(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("/proc/self/status has no RssAnon")
	return 0
}

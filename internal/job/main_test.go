package job

import (
	"flag"
	"os"
	"testing"
)

// TestMain has rapid look at more worlds than its default of 100: one takes
// about 0.1 ms.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("3000"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

package integration

import (
	"os"
	"testing"
)

// only returns all cases of a matrix where GANTRY_MATRIX is set, as by make
// test-cluster, and otherwise its first n, one of each kind.
func only[T any](t *testing.T, cases []T, n int) []T {
	if os.Getenv("GANTRY_MATRIX") != "" {
		return cases
	}
	t.Logf("%d of %d cases: GANTRY_MATRIX=1 runs all", n, len(cases))
	return cases[:n]
}

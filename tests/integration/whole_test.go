package integration

import (
	"os"
	"testing"
)

// whole reports whether all of a matrix is to be run, as by make test-cluster.
func whole() bool { return os.Getenv("GANTRY_MATRIX") != "" }

// only returns all cases of a matrix where the whole of it is to be run, and
// otherwise its first n, one of each kind.
func only[T any](t *testing.T, cases []T, n int) []T {
	if whole() {
		return cases
	}
	t.Logf("%d of %d cases: GANTRY_MATRIX=1 runs all", n, len(cases))
	return cases[:n]
}

// apart lets a test of the whole matrix, most of which is waiting, run beside
// others.
func apart(t *testing.T) {
	if whole() {
		t.Parallel()
	}
}

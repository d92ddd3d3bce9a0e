//go:build !invariants && !race

package invariants

// Enabled reports whether this build checks.
const Enabled = false

// Lifetime follows one resource from use to close; in this build it does
// nothing.
type Lifetime struct{}

// Use does nothing in this build.
func (*Lifetime) Use(string) {}

// Close does nothing in this build.
func (*Lifetime) Close(string) {}

// Check does nothing in this build.
func Check(bool, string, ...any) {}

//go:build invariants || race

package invariants

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// Enabled reports whether this build checks.
const Enabled = true

// Lifetime follows one resource from use to close. The zero value is open.
type Lifetime struct {
	closedAt atomic.Pointer[string] // stack of the first Close
}

// Use panics where the resource, described by what, is closed.
func (l *Lifetime) Use(what string) {
	if at := l.closedAt.Load(); at != nil {
		panic(fmt.Sprintf("invariants: %s is used after it was closed at:\n%s", what, *at))
	}
}

// Close marks the resource closed and panics where it is already.
func (l *Lifetime) Close(what string) {
	at := string(debug.Stack())
	if !l.closedAt.CompareAndSwap(nil, &at) {
		panic(fmt.Sprintf("invariants: %s is closed twice, first at:\n%s", what, *l.closedAt.Load()))
	}
}

// Check panics where something that must hold does not.
func Check(holds bool, format string, args ...any) {
	if !holds {
		panic("invariants: " + fmt.Sprintf(format, args...))
	}
}

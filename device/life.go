package device

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/recovery"
)

// life is what arenas of every kind have in common: where they are, how large,
// that they are used within their bounds and while they are open, and that
// nobody loses memory that he holds. Misuse is an error, and where invariants
// are on a panic.
type life struct {
	device string
	size   int64
	closed atomic.Bool
	held   atomic.Int64
	checks invariants.Lifetime
}

func (l *life) Device() string { return l.device }
func (l *life) Size() int64    { return l.size }

// Hold keeps the arena from being closed.
func (l *life) Hold() (release func(), err error) {
	if err := l.use(); err != nil {
		return nil, err
	}
	l.held.Add(1)
	return func() { l.held.Add(-1) }, nil
}

// use begins every method that needs the memory.
func (l *life) use() error {
	l.checks.Use("arena")
	if l.closed.Load() {
		return errors.New("device: arena is closed")
	}
	return nil
}

// within is use for n bytes at off.
func (l *life) within(off int64, n int) error {
	if err := l.use(); err != nil {
		return err
	}
	if off < 0 || off > l.size || int64(n) > l.size-off {
		return fmt.Errorf("device: %d bytes at offset %d lie outside the arena of %d bytes", n, off, l.size)
	}
	return nil
}

// end begins Close: after it succeeds, once, the memory may be freed.
func (l *life) end() error {
	if n := l.held.Load(); n > 0 {
		invariants.Check(false, "an arena is closed while %d use it where it lies", n)
		return recovery.Errorf(recovery.Usage, "device: the arena is in use by %d others: close them first", n)
	}
	l.checks.Close("arena")
	if !l.closed.CompareAndSwap(false, true) {
		return errors.New("device: arena is closed already")
	}
	return nil
}

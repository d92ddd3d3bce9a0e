package device

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// Lock keeps an arena of host memory from being swapped out, until it is
// closed. Memory of another device is never swapped. A process may lock no
// more than its limit: over that the error is of class out_of_capacity.
func Lock(a Arena) error {
	b := a.Host()
	if len(b) == 0 {
		return nil
	}
	err := unix.Mlock(b)
	if err == nil {
		return nil
	}
	why := fmt.Errorf("mlock: %w", err)
	limit, lerr := lockedLimit()
	if lerr == nil && limit >= 0 && (errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN)) {
		why = fmt.Errorf("this process may lock %d bytes of memory (ulimit -l, RLIMIT_MEMLOCK): %w", limit, err)
	}
	return &recovery.Error{
		Class: recovery.OutOfCapacity,
		Op:    fmt.Sprintf("lock an arena of %d bytes on %s", a.Size(), a.Device()),
		Err:   why,
		Hint:  "raise the limit (ulimit -l unlimited; LimitMEMLOCK=infinity in systemd; --ulimit memlock=-1 for a container), or go without --mlock",
	}
}

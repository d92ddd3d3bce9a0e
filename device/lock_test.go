package device

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// locked reads how much memory this process has locked, KiB.
func locked(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return keyed(b, ":")["VmLck"]
}

func TestLock(t *testing.T) {
	const size = 4 << 20
	a, err := newHostArena(size)
	if err != nil {
		t.Fatal(err)
	}
	before := locked(t)
	if err := Lock(a); err != nil {
		t.Fatal(err)
	}
	if n := locked(t) - before; n != size>>10 {
		t.Errorf("%d KiB are locked, want %d", n, size>>10)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if n := locked(t); n != before {
		t.Errorf("%d KiB are locked after the arena's end", n-before)
	}
	empty, err := newHostArena(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := Lock(empty); err != nil {
		t.Error(err)
	}
	if err := empty.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockOverTheLimit: the limit binds, and the error names it. It binds a
// thread without the capability for more, so one gives that up.
func TestLockOverTheLimit(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	low := before
	low.Cur = 64 << 10
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
			t.Error(err)
		}
	}()
	a, err := newHostArena(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&head, &data[0]); err != nil {
			result <- err
			return
		}
		data[0].Effective &^= 1 << unix.CAP_IPC_LOCK
		if err := unix.Capset(&head, &data[0]); err != nil {
			result <- err
			return
		}
		result <- Lock(a)
	}()
	err = <-result
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "may lock 65536 bytes") || !strings.Contains(err.Error(), "--mlock") {
		t.Errorf("%v, want out_of_capacity that names the limit", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

package fakecuda

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EnvState names the file that the fake shares its State by. It must be set
// before the fake is loaded.
const EnvState = "FAKECUDA_STATE"

// Kinds of copies, indices of State.Copies: CUDA's cudaMemcpyKind.
const (
	HostToHost = iota
	HostToDevice
	DeviceToHost
	DeviceToDevice
)

// CUDA errors to inject.
const (
	ErrorMemoryAllocation = 2
	ErrorIllegalAddress   = 700
	ErrorLaunchFailure    = 719
)

// State is what the fake counts and what it is told to do, laid out as struct
// state in c/state.h. It changes while it is looked at.
type State struct {
	DeviceAllocs, DeviceFrees, DeviceBytes, DevicePeak uint64
	PinnedAllocs, PinnedFrees, PinnedBytes, PinnedPeak uint64
	Copies, Copied                                     [4]uint64 // and their bytes, by kind
	Pageable                                           [4]uint64 // copies between the device and host memory that is not pinned
	Deferred                                           uint64    // copies that waited for their stream to be synchronized
	Streams, StreamsMade, Events, Syncs, Launches      uint64
	Handles, HandlesOpen                               uint64 // of memory for other processes, and of theirs
	Failures                                           [8]Failure
}

// Failure makes some calls fail.
type Failure struct {
	call  [32]byte
	Skip  uint64 // calls that succeed before
	Times uint64 // calls that fail; counts down
	Error uint64 // with this code
}

// Call makes a Failure of calls of the named function.
func Call(name string, skip, times, code uint64) Failure {
	f := Failure{Skip: skip, Times: times, Error: code}
	copy(f.call[:], name)
	return f
}

// Create makes a file that a fake may share its State by.
func Create(path string) error {
	return os.WriteFile(path, make([]byte, unsafe.Sizeof(State{})), 0o600)
}

// Map maps the State in a file, for as long as the process lives.
func Map(path string) (*State, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	b, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(State{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("fakecuda: map %s: %w", path, err)
	}
	return (*State)(unsafe.Pointer(&b[0])), nil
}

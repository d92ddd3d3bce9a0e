package device

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
)

// Handle is what another process of this machine reaches an arena's memory by.
// In JSON it can be sent anywhere; File goes with it over a Unix socket.
type Handle struct {
	Kind   HandleKind `json:"kind"`
	Device string     `json:"device"`
	Size   int64      `json:"bytes"`
	// CUDA is the cudaIpcMemHandle_t of KindCUDA, 64 bytes.
	CUDA []byte `json:"cuda,omitempty"`
	// File is the memory of KindFile: it can be mapped from its start, and read
	// only. The caller of Export closes it.
	File *os.File `json:"-"`
}

// HandleKind says how a Handle is used.
type HandleKind string

// Kinds of handles.
const (
	KindFile HandleKind = "file" // map a file descriptor (memfd_create)
	KindCUDA HandleKind = "cuda" // cudaIpcOpenMemHandle
)

// Exporter is an arena that other processes can read where it lies: those of
// NewSharedArena and those of GPUs. What reads it must be done before the arena
// is closed: memory of a GPU is gone then, that of a file stays until the last
// lets go of it.
type Exporter interface {
	Arena
	// Export returns a handle of the whole arena.
	Export() (Handle, error)
}

// Attached is an arena of another process, to be read.
type Attached interface {
	Device() string
	Size() int64
	// Host is the memory where the CPU can address it, nil elsewhere. Writing
	// to it faults.
	Host() []byte
	CopyOut(p []byte, off int64) error
	// Close lets go of it.
	Close() error
}

// NewSharedArena is NewArena for an arena that is an Exporter. Host memory is a
// file without a name then; it gets huge pages only where the kernel gives them
// to shared memory (shmem_enabled), and is slower to make where it does not.
func NewSharedArena(id string, bytes int64) (Arena, error) {
	if id == CPU && bytes >= 0 {
		return newSharedArena(bytes)
	}
	return NewArena(id, bytes)
}

// sharedArena is a host arena that lies in a file.
type sharedArena struct {
	hostArena
	file *os.File
}

func newSharedArena(bytes int64) (_ *sharedArena, err error) {
	fd, err := unix.MemfdCreate("gantry-arena", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("device: make shared memory: %w", err)
	}
	a := &sharedArena{file: os.NewFile(uintptr(fd), "gantry-arena")}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.file.Close())
		}
	}()
	if err = a.make(bytes, fd); err != nil {
		return nil, err
	}
	// Whoever gets the descriptor may rely on its size, and not write.
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	if _, err = unix.FcntlInt(a.file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("device: seal shared memory: %w", err), a.hostArena.Close())
	}
	return a, nil
}

// Export returns a descriptor of the file.
func (a *sharedArena) Export() (Handle, error) {
	if err := a.use(); err != nil {
		return Handle{}, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", a.file.Fd())) // read only, unlike a duplicate
	if err != nil {
		return Handle{}, fmt.Errorf("device: export an arena: %w", err)
	}
	return Handle{Kind: KindFile, Device: CPU, Size: a.size, File: f}, nil
}

func (a *sharedArena) Close() error {
	if err := a.hostArena.Close(); err != nil {
		return err
	}
	return a.file.Close()
}

// Attach reaches the arena that another process exported. The handle's File
// stays the caller's, and may be closed after it.
func Attach(h Handle) (Attached, error) {
	switch h.Kind {
	case KindFile:
		return attachFile(h)
	case KindCUDA:
		return attachCUDA(h)
	}
	return nil, recovery.Errorf(recovery.Usage, "device: no handle is of kind %q", h.Kind)
}

// attachedFile is mapped memory of another process.
type attachedFile struct{ hostArena }

func attachFile(h Handle) (*attachedFile, error) {
	if h.File == nil || h.Size < 0 {
		return nil, recovery.Errorf(recovery.Usage, "device: attach %d bytes without the file that they are in", h.Size)
	}
	info, err := h.File.Stat()
	if err != nil {
		return nil, fmt.Errorf("device: attach: %w", err)
	}
	if info.Size() < h.Size {
		return nil, recovery.Errorf(recovery.Usage, "device: attach %d bytes of a file of %d", h.Size, info.Size())
	}
	a := &attachedFile{hostArena{life: life{device: CPU, size: h.Size}, host: []byte{}}}
	if h.Size == 0 {
		return a, nil
	}
	if a.mapping, err = unix.Mmap(int(h.File.Fd()), 0, int(h.Size), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("device: attach: mmap: %w", err)
	}
	a.host = a.mapping
	return a, nil
}

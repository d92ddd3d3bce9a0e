package device

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/gantry-ml/gantry/device/cudart"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/recovery"
)

// cudaArena is memory of a GPU, of ONNX Runtime's shared allocator for it.
type cudaArena struct {
	life
	gpu     *cudaDevice
	memory  unsafe.Pointer // nil of an arena without bytes
	foreign bool           // another process's
}

func newCUDAArena(id string, bytes int64) (*cudaArena, error) {
	gpu, err := openCUDA(id)
	if err != nil {
		return nil, err
	}
	a := &cudaArena{life: life{device: id, size: bytes}, gpu: gpu}
	if bytes == 0 {
		return a, nil
	}
	if a.memory, err = gpu.Alloc(bytes); err != nil {
		return nil, noRoomOn(id, "make an arena", bytes, gpu.failed("cudaMalloc", err))
	}
	if err := gpu.cuda.Zero(gpu.n, a.memory, bytes); err != nil {
		return nil, errors.Join(fmt.Errorf("device: clear an arena on %s: %w", id, err), gpu.Free(a.memory))
	}
	return a, nil
}

// noRoomOn is the error of memory that a device does not give: where it says
// that it is full, that the model does not fit.
func noRoomOn(id, op string, bytes int64, why error) error {
	class := recovery.Unavailable
	var refused *cudart.Error
	if !errors.As(why, &refused) || refused.Code == cudart.OutOfMemory {
		class = recovery.OutOfCapacity
	}
	return &recovery.Error{Class: class, Op: fmt.Sprintf("%s of %d bytes on %s", op, bytes, id), Err: why,
		Hint: "free memory of the device, quantize further, or spread the ranks over more devices"}
}

// Host is nil: the CPU cannot address the memory.
func (a *cudaArena) Host() []byte {
	a.checks.Use("arena")
	return nil
}

// Prefault does nothing: the memory is there from the start.
func (a *cudaArena) Prefault(ctx context.Context, _ int) error {
	if err := a.use(); err != nil {
		return err
	}
	return ctx.Err()
}

func (a *cudaArena) CopyIn(off int64, p []byte) error {
	return a.copy("copy to", off, p, func(at unsafe.Pointer) error { return a.gpu.CopyIn(at, p) })
}

func (a *cudaArena) CopyOut(p []byte, off int64) error {
	return a.copy("copy from", off, p, func(at unsafe.Pointer) error { return a.gpu.CopyOut(p, at) })
}

// copy starts a copy and waits for it. Other goroutines start theirs meanwhile,
// so that the device always has one to go on with.
func (a *cudaArena) copy(op string, off int64, p []byte, start func(at unsafe.Pointer) error) error {
	if err := a.within(off, len(p)); err != nil || len(p) == 0 {
		return err
	}
	var pin runtime.Pinner
	pin.Pin(&p[0])
	defer pin.Unpin()
	err := start(unsafe.Add(a.memory, off))
	if err != nil {
		err = a.gpu.failed("cudaMemcpyAsync", err)
	} else {
		err = a.gpu.cuda.Synchronize(a.gpu.Stream())
	}
	if err == nil {
		return nil
	}
	return &recovery.Error{Class: recovery.Unavailable, Op: fmt.Sprintf("%s %s", op, a.device), Offset: off, Length: int64(len(p)), Err: err,
		Hint: "look for Xid errors of the driver in dmesg"}
}

func (a *cudaArena) Close() error {
	if err := a.end(); err != nil {
		return err
	}
	if a.memory == nil {
		return nil
	}
	if a.foreign {
		return a.gpu.cuda.CloseImported(a.gpu.n, a.memory)
	}
	if err := a.gpu.Free(a.memory); err != nil {
		return fmt.Errorf("device: free an arena on %s: %w", a.device, a.gpu.failed("cudaFree", err))
	}
	return nil
}

// Export returns a handle for cudaIpcOpenMemHandle.
func (a *cudaArena) Export() (Handle, error) {
	if err := a.use(); err != nil {
		return Handle{}, err
	}
	h := Handle{Kind: KindCUDA, Device: a.device, Size: a.size}
	if a.memory == nil {
		return h, nil
	}
	var err error
	if h.CUDA, err = a.gpu.cuda.Export(a.gpu.n, a.memory); err != nil {
		return Handle{}, fmt.Errorf("device: export an arena on %s: %w", a.device, err)
	}
	return h, nil
}

func attachCUDA(h Handle) (*cudaArena, error) {
	gpu, err := openCUDA(h.Device)
	if err != nil {
		return nil, err
	}
	a := &cudaArena{life: life{device: h.Device, size: h.Size}, gpu: gpu, foreign: true}
	if h.Size == 0 {
		return a, nil
	}
	if a.memory, err = gpu.cuda.Import(gpu.n, h.CUDA); err != nil {
		return nil, fmt.Errorf("device: attach %d bytes on %s: %w", h.Size, h.Device, err)
	}
	return a, nil
}

// Pin returns memory of the host that the device copies from and to at its full
// rate, and what gives it back. It is present, and not the device's.
func Pin(id string, bytes int64) (memory []byte, free func() error, err error) {
	gpu, err := openCUDA(id)
	if err != nil {
		return nil, nil, err
	}
	if memory, err = gpu.AllocPinned(bytes); err != nil {
		return nil, nil, noRoomOn(id, "pin host memory", bytes, gpu.failed("cudaMallocHost", err))
	}
	return memory, func() error { return gpu.FreePinned(memory) }, nil
}

// CUDAMemory returns where an arena on a GPU lies, for sessions; false for
// others.
func CUDAMemory(a Arena) (d *ort.CUDADevice, at unsafe.Pointer, ok bool) {
	c, ok := a.(*cudaArena)
	if !ok {
		return nil, nil, false
	}
	return c.gpu.CUDADevice, c.memory, true
}

package cudart

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char bytes[64]; } gantry_ipc_handle; // cudaIpcMemHandle_t

typedef struct {
	int (*driverVersion)(int*);
	int (*runtimeVersion)(int*);
	int (*deviceCount)(int*);
	int (*setDevice)(int);
	int (*memset)(void*, int, size_t);
	int (*synchronize)(void*);
	int (*exportMemory)(gantry_ipc_handle*, void*);
	int (*importMemory)(void**, gantry_ipc_handle, unsigned);
	int (*closeImported)(void*);
	int (*lastError)(void);
	const char* (*errorName)(int);
	const char* (*errorText)(int);
} gantry_cudart;

// gantry_bind fills f and returns NULL, or the name of what the library lacks.
static const char* gantry_bind(void* lib, gantry_cudart* f) {
	const struct { void** to; const char* name; } want[] = {
		{(void**)&f->driverVersion, "cudaDriverGetVersion"},
		{(void**)&f->runtimeVersion, "cudaRuntimeGetVersion"},
		{(void**)&f->deviceCount, "cudaGetDeviceCount"},
		{(void**)&f->setDevice, "cudaSetDevice"},
		{(void**)&f->memset, "cudaMemset"},
		{(void**)&f->synchronize, "cudaStreamSynchronize"},
		{(void**)&f->exportMemory, "cudaIpcGetMemHandle"},
		{(void**)&f->importMemory, "cudaIpcOpenMemHandle"},
		{(void**)&f->closeImported, "cudaIpcCloseMemHandle"},
		{(void**)&f->lastError, "cudaGetLastError"},
		{(void**)&f->errorName, "cudaGetErrorName"},
		{(void**)&f->errorText, "cudaGetErrorString"},
	};
	for (size_t i = 0; i < sizeof want / sizeof *want; i++)
		if (!(*want[i].to = dlsym(lib, want[i].name))) return want[i].name;
	return NULL;
}

static int gantry_driver_version(gantry_cudart* f, int* v) { return f->driverVersion(v); }
static int gantry_runtime_version(gantry_cudart* f, int* v) { return f->runtimeVersion(v); }
static int gantry_device_count(gantry_cudart* f, int* n) { return f->deviceCount(n); }
static int gantry_set_device(gantry_cudart* f, int d) { return f->setDevice(d); }
static int gantry_memset(gantry_cudart* f, void* p, size_t n) { return f->memset(p, 0, n); }
static int gantry_synchronize(gantry_cudart* f, void* s) { return f->synchronize(s); }
static int gantry_export(gantry_cudart* f, void* handle, void* p) { return f->exportMemory(handle, p); }
static int gantry_import(gantry_cudart* f, void** p, const void* handle) {
	enum { lazyEnablePeerAccess = 1 };
	gantry_ipc_handle h;
	memcpy(&h, handle, sizeof h);
	return f->importMemory(p, h, lazyEnablePeerAccess);
}
static int gantry_close_imported(gantry_cudart* f, void* p) { return f->closeImported(p); }
static void gantry_clear_error(gantry_cudart* f) { f->lastError(); }
static const char* gantry_error_name(gantry_cudart* f, int e) { return f->errorName(e); }
static const char* gantry_error_text(gantry_cudart* f, int e) { return f->errorText(e); }
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// Runtime is the CUDA runtime library in this process. Its methods may be
// called from several goroutines.
type Runtime struct{ f C.gantry_cudart }

// Error is a call that CUDA refused.
type Error struct {
	Call string // such as "cudaMemset"
	Code int    // cudaError_t
	Name string // such as "cudaErrorMemoryAllocation"
	Text string // CUDA's words for it
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Call, e.Name, e.Text) }

// OutOfMemory is the code of cudaErrorMemoryAllocation.
const OutOfMemory = 2

// load opens a library by the name that the dynamic loader knows it by.
func load(name string) (unsafe.Pointer, error) {
	// The loader's error text belongs to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	lib := C.dlopen(c, C.RTLD_LAZY|C.RTLD_LOCAL)
	if lib == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	return lib, nil
}

// Open opens the runtime's library, such as "libcudart.so.13"; one that is
// loaded already is the same again.
func Open(name string) (*Runtime, error) {
	lib, err := load(name)
	if err != nil {
		return nil, err
	}
	r := &Runtime{}
	if missing := C.gantry_bind(lib, &r.f); missing != nil {
		C.dlclose(lib)
		return nil, fmt.Errorf("%s has no %s", name, C.GoString(missing))
	}
	return r, nil
}

// check turns a cudaError_t into an error, and has CUDA forget it.
func (r *Runtime) check(call string, code C.int) error {
	if code == 0 {
		return nil
	}
	C.gantry_clear_error(&r.f)
	return r.ErrorOf(call, int(code))
}

// ErrorOf returns the error that a code stands for.
func (r *Runtime) ErrorOf(call string, code int) *Error {
	return &Error{Call: call, Code: code, Name: C.GoString(C.gantry_error_name(&r.f, C.int(code))),
		Text: C.GoString(C.gantry_error_text(&r.f, C.int(code)))}
}

// Versions returns the newest CUDA version that the driver serves, and the
// runtime's own, as 1000 × major + 10 × minor; driver is 0 without a driver.
func (r *Runtime) Versions() (driver, library int, err error) {
	var d, l C.int
	err = r.check("cudaDriverGetVersion", C.gantry_driver_version(&r.f, &d))
	return int(d), int(l), errors.Join(err, r.check("cudaRuntimeGetVersion", C.gantry_runtime_version(&r.f, &l)))
}

// Devices counts the devices that CUDA shows to this process.
func (r *Runtime) Devices() (int, error) {
	var n C.int
	err := r.check("cudaGetDeviceCount", C.gantry_device_count(&r.f, &n))
	return int(n), err
}

// on runs f with a device as the current one, which belongs to the thread.
func (r *Runtime) on(device int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := r.check("cudaSetDevice", C.gantry_set_device(&r.f, C.int(device))); err != nil {
		return err
	}
	return f()
}

// Zero clears n bytes of a device's memory, and waits until that is done.
func (r *Runtime) Zero(device int, p unsafe.Pointer, n int64) error {
	return r.on(device, func() error {
		if err := r.check("cudaMemset", C.gantry_memset(&r.f, p, C.size_t(n))); err != nil {
			return err
		}
		return r.Synchronize(nil) // the device's default stream, which cleared
	})
}

// Synchronize waits until all that was asked of a stream is done, and returns
// what went wrong with it.
func (r *Runtime) Synchronize(stream unsafe.Pointer) error {
	return r.check("cudaStreamSynchronize", C.gantry_synchronize(&r.f, stream))
}

// HandleBytes is the size of a handle for other processes.
const HandleBytes = C.sizeof_gantry_ipc_handle

// Export returns a handle by which other processes of this machine reach the
// memory of a device that p is the start of, as long as it is not freed.
func (r *Runtime) Export(device int, p unsafe.Pointer) ([]byte, error) {
	handle := make([]byte, HandleBytes)
	err := r.on(device, func() error {
		return r.check("cudaIpcGetMemHandle", C.gantry_export(&r.f, unsafe.Pointer(&handle[0]), p))
	})
	return handle, err
}

// Import returns the address here of memory that another process exported.
// CloseImported lets go of it.
func (r *Runtime) Import(device int, handle []byte) (unsafe.Pointer, error) {
	if len(handle) != HandleBytes {
		return nil, fmt.Errorf("a CUDA memory handle of %d bytes, want %d", len(handle), HandleBytes)
	}
	var p unsafe.Pointer
	err := r.on(device, func() error {
		return r.check("cudaIpcOpenMemHandle", C.gantry_import(&r.f, &p, unsafe.Pointer(&handle[0])))
	})
	return p, err
}

// CloseImported lets go of what Import returned.
func (r *Runtime) CloseImported(device int, p unsafe.Pointer) error {
	return r.on(device, func() error {
		return r.check("cudaIpcCloseMemHandle", C.gantry_close_imported(&r.f, p))
	})
}

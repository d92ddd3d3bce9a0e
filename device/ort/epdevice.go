package ort

/*
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum {
	slotCreateEnv = 3,
	slotCreateTensorOver = 49,
	slotCreateCPUInfo = 69,
	slotMemoryInfoGetId = 72,
	slotAllocatorAlloc = 75,
	slotAllocatorFree = 76,
	slotReleaseInfo = 94,
	slotReleaseTensor = 96,
	slotRegisterLibrary = 301,
	slotGetEpDevices = 303,
	slotAppendProvider = 304,
	slotEpDeviceEpName = 312,
	slotEpDeviceMemoryInfo = 374,
	slotCreateSharedAllocator = 375,
	slotCreateSyncStream = 383,
	slotSyncStreamGetHandle = 384,
	slotCopyTensors = 386,
};

typedef const void* const* gantry_api; // as in shim.go
typedef void* gantry_status;

static gantry_status gantry_env(gantry_api a, void** out) {
	enum { levelError = 3 };
	return ((gantry_status (*)(int, const char*, void**))a[slotCreateEnv])(levelError, "gantry", out);
}
static gantry_status gantry_register(gantry_api a, void* env, const char* name, const char* path) {
	return ((gantry_status (*)(void*, const char*, const char*))a[slotRegisterLibrary])(env, name, path);
}
static gantry_status gantry_ep_devices(gantry_api a, void* env, void*** list, size_t* n) {
	return ((gantry_status (*)(void*, void***, size_t*))a[slotGetEpDevices])(env, list, n);
}
static const char* gantry_ep_name(gantry_api a, void* device) {
	return ((const char* (*)(void*))a[slotEpDeviceEpName])(device);
}

// kind is an OrtDeviceMemoryType.
static void* gantry_memory_info(gantry_api a, void* device, int kind) {
	return ((void* (*)(void*, int))a[slotEpDeviceMemoryInfo])(device, kind);
}
static gantry_status gantry_memory_id(gantry_api a, void* info, int* id) {
	return ((gantry_status (*)(void*, int*))a[slotMemoryInfoGetId])(info, id);
}
static gantry_status gantry_allocator(gantry_api a, void* env, void* device, int kind, void** out) {
	enum { deviceAllocator = 0 };
	return ((gantry_status (*)(void*, void*, int, int, void*, void**))a[slotCreateSharedAllocator])(env, device, kind, deviceAllocator, NULL, out);
}
static gantry_status gantry_alloc(gantry_api a, void* allocator, size_t n, void** out) {
	return ((gantry_status (*)(void*, size_t, void**))a[slotAllocatorAlloc])(allocator, n, out);
}
static gantry_status gantry_free(gantry_api a, void* allocator, void* p) {
	return ((gantry_status (*)(void*, void*))a[slotAllocatorFree])(allocator, p);
}
static gantry_status gantry_stream(gantry_api a, void* device, void** out) {
	return ((gantry_status (*)(void*, void*, void**))a[slotCreateSyncStream])(device, NULL, out);
}
static void* gantry_stream_handle(gantry_api a, void* stream) {
	return ((void* (*)(void*))a[slotSyncStreamGetHandle])(stream);
}
static gantry_status gantry_cpu_info(gantry_api a, void** out) {
	enum { deviceAllocator = 0, memTypeDefault = 0 };
	return ((gantry_status (*)(int, int, void**))a[slotCreateCPUInfo])(deviceAllocator, memTypeDefault, out);
}

static gantry_status gantry_append_provider(gantry_api a, void* options, void* env, void* device) {
	return ((gantry_status (*)(void*, void*, void**, size_t, char**, char**, size_t))a[slotAppendProvider])(options, env, &device, 1, NULL, NULL, 0);
}

static gantry_status gantry_bytes(gantry_api a, void* info, void* p, size_t n, void** out) {
	enum { uint8 = 2 };
	int64_t shape = n;
	return ((gantry_status (*)(void*, void*, size_t, const int64_t*, size_t, int, void**))a[slotCreateTensorOver])(info, p, n, &shape, 1, uint8, out);
}

// gantry_copy asks for n bytes to be copied on a stream.
static gantry_status gantry_copy(gantry_api a, void* env, void* to_info, void* to, void* from_info, void* from, size_t n, void* stream) {
	void (*release)(void*) = (void (*)(void*))a[slotReleaseTensor];
	void *dst, *src;
	gantry_status s = gantry_bytes(a, to_info, to, n, &dst);
	if (s) return s;
	s = gantry_bytes(a, from_info, from, n, &src);
	if (!s) {
		s = ((gantry_status (*)(void*, void**, void**, void*, size_t))a[slotCopyTensors])(env, &src, &dst, stream, 1);
		release(src);
	}
	release(dst);
	return s;
}
*/
import "C"

import (
	"fmt"
	"sync"
	"unsafe"
)

// epDeviceSlots are the slots that this file calls.
var epDeviceSlots = map[string]int{
	"CreateEnv":                        C.slotCreateEnv,
	"CreateTensorWithDataAsOrtValue":   C.slotCreateTensorOver,
	"CreateCpuMemoryInfo":              C.slotCreateCPUInfo,
	"MemoryInfoGetId":                  C.slotMemoryInfoGetId,
	"AllocatorAlloc":                   C.slotAllocatorAlloc,
	"AllocatorFree":                    C.slotAllocatorFree,
	"ReleaseMemoryInfo":                C.slotReleaseInfo,
	"ReleaseValue":                     C.slotReleaseTensor,
	"RegisterExecutionProviderLibrary": C.slotRegisterLibrary,
	"GetEpDevices":                     C.slotGetEpDevices,
	"EpDevice_EpName":                  C.slotEpDeviceEpName,

	"SessionOptionsAppendExecutionProvider_V2": C.slotAppendProvider,
	"EpDevice_MemoryInfo":                      C.slotEpDeviceMemoryInfo,
	"CreateSharedAllocator":                    C.slotCreateSharedAllocator,
	"CreateSyncStreamForEpDevice":              C.slotCreateSyncStream,
	"SyncStream_GetHandle":                     C.slotSyncStreamGetHandle,
	"CopyTensors":                              C.slotCopyTensors,
}

// cudaProvider is the name of the execution provider that serves CUDA devices.
const cudaProvider = "CUDAExecutionProvider"

// Kinds of memory of an EP device: OrtDeviceMemoryType.
const (
	deviceMemory = 0
	pinnedMemory = 5
)

// provider has calls that may fail made one at a time: the CUDA provider
// writes why a CUDA call failed into one buffer of the process, where calls that
// fail at once spoil each other's text (onnxruntime/core/providers/cuda/cuda_call.cc).
// To ask for a copy from or to pinned memory, as loads do, takes microseconds; one
// to other memory, as exports do, lasts, and the others wait.
var provider sync.Mutex

// CUDADevice is a CUDA device as ONNX Runtime's provider serves it: memory on
// it, pinned memory beside it, and one stream of copies. Its methods may be
// called from several goroutines. It lives as long as the process.
type CUDADevice struct {
	lib            *library
	env            unsafe.Pointer
	ep             unsafe.Pointer // OrtEpDevice
	device, pinned allocator
	host           unsafe.Pointer // OrtMemoryInfo of pageable memory
	stream         unsafe.Pointer
}

// allocator is an OrtAllocator and the OrtMemoryInfo of what it gives.
type allocator struct{ alloc, info unsafe.Pointer }

// RegisterCUDA loads the CUDA provider's library, once for the process.
func (r *Runtime) RegisterCUDA(path string) error {
	env, err := r.lib.environment()
	if err != nil {
		return err
	}
	name, file := C.CString(cudaProvider), C.CString(path)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(file))
	return r.lib.check(C.gantry_register(r.lib.api, env, name, file))
}

// environment returns the process's one OrtEnv, which onnxruntime_go has made:
// asked for another, ONNX Runtime gives the same again.
func (l *library) environment() (unsafe.Pointer, error) {
	var env unsafe.Pointer
	err := l.check(C.gantry_env(l.api, &env))
	return env, err
}

// CUDADevice returns the device that CUDA numbers n, after RegisterCUDA.
func (r *Runtime) CUDADevice(n int) (*CUDADevice, error) {
	env, err := r.lib.environment()
	if err != nil {
		return nil, err
	}
	ep, found, err := r.lib.epDevice(env, n)
	if err != nil {
		return nil, err
	}
	if ep == nil {
		return nil, fmt.Errorf("ONNX Runtime's %s shows %d devices", cudaProvider, found)
	}
	d := &CUDADevice{lib: r.lib, env: env, ep: ep}
	if d.device, err = r.lib.allocator(env, ep, deviceMemory); err != nil {
		return nil, err
	}
	if d.pinned, err = r.lib.allocator(env, ep, pinnedMemory); err != nil {
		return nil, err
	}
	if err := r.lib.check(C.gantry_cpu_info(r.lib.api, &d.host)); err != nil {
		return nil, err
	}
	return d, r.lib.check(C.gantry_stream(r.lib.api, ep, &d.stream))
}

// epDevice looks for the OrtEpDevice of a CUDA device, nil where there is none,
// and counts those there are. Other providers list devices too.
func (l *library) epDevice(env unsafe.Pointer, n int) (ep unsafe.Pointer, found int, err error) {
	var list *unsafe.Pointer
	var count C.size_t
	if err := l.check(C.gantry_ep_devices(l.api, env, &list, &count)); err != nil {
		return nil, 0, err
	}
	for _, d := range unsafe.Slice(list, int(count)) {
		if C.GoString(C.gantry_ep_name(l.api, d)) != cudaProvider {
			continue
		}
		found++
		var id C.int
		if err := l.check(C.gantry_memory_id(l.api, C.gantry_memory_info(l.api, d, deviceMemory), &id)); err != nil {
			return nil, found, err
		}
		if int(id) == n {
			ep = d
		}
	}
	return ep, found, nil
}

func (l *library) allocator(env, ep unsafe.Pointer, kind C.int) (a allocator, err error) {
	if a.info = C.gantry_memory_info(l.api, ep, kind); a.info == nil {
		return a, fmt.Errorf("the provider has no memory of kind %d", kind)
	}
	return a, l.check(C.gantry_allocator(l.api, env, ep, kind, &a.alloc))
}

// Stream is the native handle of the stream, a cudaStream_t.
func (d *CUDADevice) Stream() unsafe.Pointer { return C.gantry_stream_handle(d.lib.api, d.stream) }

// Alloc returns the address of memory on the device, which Free gives back. It
// holds what was there before.
func (d *CUDADevice) Alloc(bytes int64) (unsafe.Pointer, error) {
	return d.lib.alloc(d.device, bytes)
}

// Free gives back what Alloc returned.
func (d *CUDADevice) Free(p unsafe.Pointer) error { return d.lib.free(d.device, p) }

// AllocPinned returns host memory that the device copies from and to without a
// copy of the driver's. FreePinned gives it back.
func (d *CUDADevice) AllocPinned(bytes int64) ([]byte, error) {
	p, err := d.lib.alloc(d.pinned, bytes)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

// FreePinned gives back what AllocPinned returned, whole.
func (d *CUDADevice) FreePinned(b []byte) error {
	return d.lib.free(d.pinned, unsafe.Pointer(unsafe.SliceData(b)))
}

func (l *library) alloc(a allocator, bytes int64) (unsafe.Pointer, error) {
	provider.Lock()
	defer provider.Unlock()
	var p unsafe.Pointer
	err := l.check(C.gantry_alloc(l.api, a.alloc, C.size_t(bytes), &p))
	return p, err
}

func (l *library) free(a allocator, p unsafe.Pointer) error {
	provider.Lock()
	defer provider.Unlock()
	return l.check(C.gantry_free(l.api, a.alloc, p))
}

// CopyIn asks for src to be copied to the device at dst. It is done, and src
// free to be changed or moved, once the stream is synchronized.
func (d *CUDADevice) CopyIn(dst unsafe.Pointer, src []byte) error {
	return d.copy(d.device.info, dst, d.host, unsafe.Pointer(unsafe.SliceData(src)), len(src))
}

// CopyOut asks for dst to be filled from the device's memory at src. It is done
// once the stream is synchronized.
func (d *CUDADevice) CopyOut(dst []byte, src unsafe.Pointer) error {
	return d.copy(d.host, unsafe.Pointer(unsafe.SliceData(dst)), d.device.info, src, len(dst))
}

func (d *CUDADevice) copy(toInfo, to, fromInfo, from unsafe.Pointer, n int) error {
	provider.Lock()
	defer provider.Unlock()
	return d.lib.check(C.gantry_copy(d.lib.api, d.env, toInfo, to, fromInfo, from, C.size_t(n), d.stream))
}

// serve has a session with these options run on the device.
func (d *CUDADevice) serve(options unsafe.Pointer) error {
	return d.lib.check(C.gantry_append_provider(d.lib.api, options, d.env, d.ep))
}

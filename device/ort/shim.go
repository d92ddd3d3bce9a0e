package ort

/*
#cgo linux LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

// OrtApiBase and OrtApi are tables of function pointers that only ever grow
// at the end, so a slot keeps its number. The numbers are those of OrtApi in
// onnxruntime_c_api.h; TestSlots checks them against the header that
// onnxruntime_go ships. The header itself is not included: it would have to
// be copied here or named in CGO_CFLAGS.
enum {
	slotGetErrorMessage = 2,
	slotReleaseStatus = 93,
	slotGetAvailableProviders = 125,
	slotReleaseAvailableProviders = 126,
	slotAddInitializer = 150,
};

typedef struct {
	const void* const* (*getApi)(uint32_t version);
	const char* (*getVersionString)(void);
} gantry_base;

typedef const void* const* gantry_api;
typedef void* gantry_status; // OrtStatus*, NULL is success

static gantry_base* gantry_get_base(void* fn) { return ((gantry_base* (*)(void))fn)(); }
static const char* gantry_version(gantry_base* b) { return b->getVersionString(); }
static gantry_api gantry_get_api(gantry_base* b, uint32_t v) { return b->getApi(v); }

// The file that fn was loaded from.
static const char* gantry_file(void* fn) {
	Dl_info i;
	return dladdr(fn, &i) ? i.dli_fname : NULL;
}

// A GNU extension, absent from other C libraries.
extern int malloc_trim(size_t pad) __attribute__((weak));
static void gantry_trim(void) {
	if (malloc_trim) malloc_trim(0);
}

static const char* gantry_message(gantry_api a, gantry_status s) {
	return ((const char* (*)(gantry_status))a[slotGetErrorMessage])(s);
}
static void gantry_release(gantry_api a, gantry_status s) {
	((void (*)(gantry_status))a[slotReleaseStatus])(s);
}
static gantry_status gantry_providers(gantry_api a, char*** out, int* n) {
	return ((gantry_status (*)(char***, int*))a[slotGetAvailableProviders])(out, n);
}
static gantry_status gantry_free_providers(gantry_api a, char** p, int n) {
	return ((gantry_status (*)(char**, int))a[slotReleaseAvailableProviders])(p, n);
}
static gantry_status gantry_add_initializer(gantry_api a, void* options, const char* name, void* value) {
	return ((gantry_status (*)(void*, const char*, void*))a[slotAddInitializer])(options, name, value);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/gantry-ml/gantry/recovery"

	onnx "github.com/yalue/onnxruntime_go"
)

// slots are the slots of OrtApi that the shim calls.
var slots = map[string]int{
	"GetErrorMessage":           C.slotGetErrorMessage,
	"ReleaseStatus":             C.slotReleaseStatus,
	"GetAvailableProviders":     C.slotGetAvailableProviders,
	"ReleaseAvailableProviders": C.slotReleaseAvailableProviders,
	"AddInitializer":            C.slotAddInitializer,
}

func init() {
	maps.Copy(slots, valueSlots)
	maps.Copy(slots, epDeviceSlots)
}

// library is an ONNX Runtime library in this process.
type library struct {
	handle  unsafe.Pointer
	base    *C.gantry_base
	api     C.gantry_api // nil until bind
	file    string       // where the dynamic loader found it
	version string
}

var (
	errNotLoaded = errors.New("it cannot be loaded")
	errForeign   = errors.New("it is not an ONNX Runtime library")
)

// load opens the library at path, which may be a bare name for the dynamic
// loader to look up.
func load(path string) (*library, error) {
	// The loader's error text belongs to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	l := &library{handle: C.dlopen(name, C.RTLD_LAZY|C.RTLD_LOCAL)}
	if l.handle == nil {
		return nil, fmt.Errorf("%w: %s", errNotLoaded, C.GoString(C.dlerror()))
	}
	symbol := C.CString("OrtGetApiBase")
	defer C.free(unsafe.Pointer(symbol))
	fn := C.dlsym(l.handle, symbol)
	if fn == nil {
		l.unload()
		return nil, errForeign
	}
	if l.base = C.gantry_get_base(fn); l.base == nil {
		l.unload()
		return nil, errForeign
	}
	l.file = C.GoString(C.gantry_file(fn))
	l.version = C.GoString(C.gantry_version(l.base))
	return l, nil
}

func (l *library) unload() { C.dlclose(l.handle) }

// bind fetches the function table of an API version.
func (l *library) bind(api int) error {
	if l.api = C.gantry_get_api(l.base, C.uint32_t(api)); l.api == nil {
		return fmt.Errorf("it does not serve version %d of its C API", api)
	}
	return nil
}

// check turns an OrtStatus into an error and releases it.
func (l *library) check(s C.gantry_status) error {
	if s == nil {
		return nil
	}
	defer C.gantry_release(l.api, s)
	return inLine(errors.New(C.GoString(C.gantry_message(l.api, s))))
}

// noMemory is what ONNX Runtime and CUDA say where memory is full.
var noMemory = []string{"std::bad_alloc", "Failed to allocate memory", "out of memory"}

// inLine brings an error of ONNX Runtime's, which may have lines of any number,
// to one. It is class out_of_capacity where memory was full, which has no code
// of its own.
func inLine(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if slices.ContainsFunc(noMemory, func(s string) bool { return strings.Contains(text, s) }) {
		return recovery.Errorf(recovery.OutOfCapacity, "%s", text)
	}
	return errors.New(text)
}

// trim gives free C memory back to the system. glibc keeps what was freed in
// an arena per thread, and Go calls from many: tens of MiB after a few runs.
func trim() { C.gantry_trim() }

// providers lists the execution providers that the library was built with.
func (l *library) providers() ([]string, error) {
	var list **C.char
	var n C.int
	if err := l.check(C.gantry_providers(l.api, &list, &n)); err != nil {
		return nil, err
	}
	var out []string
	for _, p := range unsafe.Slice(list, int(n)) {
		out = append(out, C.GoString(p))
	}
	return out, l.check(C.gantry_free_providers(l.api, list, n))
}

// addInitializer makes value the model's initializer of that name, without a
// copy: value and its memory must outlive every session made with options.
func (l *library) addInitializer(options *onnx.SessionOptions, name string, v handle) error {
	o, err := handleOf(options, "o")
	if err != nil {
		return err
	}
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return l.check(C.gantry_add_initializer(l.api, o, c, unsafe.Pointer(v)))
}

// handleOf reads the C pointer in an unexported field of an onnxruntime_go
// struct, or of one that fields of it point to; another version of that module
// that names them otherwise is an error here and not a wild pointer.
func handleOf(v any, fields ...string) (unsafe.Pointer, error) {
	f := reflect.ValueOf(v)
	for _, name := range fields {
		if f.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("ort: %T has no struct in fields %q", v, fields)
		}
		f = f.Elem().FieldByName(name)
		if !f.IsValid() || f.Kind() != reflect.Pointer || f.IsNil() {
			return nil, fmt.Errorf("ort: %T has no C pointer in fields %q", v, fields)
		}
	}
	return f.UnsafePointer(), nil
}

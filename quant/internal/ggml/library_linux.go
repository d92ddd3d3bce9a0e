//go:build cgo

package ggml

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*quantizer)(const float*, void*, int64_t);

static void quantize(void* f, const float* src, void* dst, int64_t n) { ((quantizer)f)(src, dst, n); }

// How well a build of libggml-cpu suits this CPU; 0: not at all.
static int score(void* f) { return ((int (*)(void))f)(); }

static void init(void* f) { ((void (*)(void))f)(); }

// from_float is the first field of struct ggml_type_traits_cpu.
static void* from_float(void* f, int type) {
	void* const* traits = ((void* const* (*)(int))f)(type);
	return traits ? traits[0] : 0;
}
*/
import "C"

import (
	"fmt"
	"path/filepath"
	"unsafe"
)

// Library is libggml-base and the libggml-cpu that suits this CPU best. It
// stays loaded until the process ends.
type Library struct {
	base, cpu unsafe.Pointer
}

// Open loads the libraries in dir. It fails where one is missing or none of
// the builds for CPUs runs here.
func Open(dir string) (*Library, error) {
	base, err := load(filepath.Join(dir, "libggml-base.so"))
	if err != nil {
		return nil, err
	}
	builds, err := filepath.Glob(filepath.Join(dir, "libggml-cpu*.so"))
	if err != nil {
		return nil, fmt.Errorf("ggml: %w", err)
	}
	var best unsafe.Pointer
	var most C.int
	for _, path := range builds {
		cpu, err := load(path)
		if err != nil {
			return nil, err
		}
		if f := symbol(cpu, "ggml_backend_score"); f == nil {
			best = cpu // the only build there is
		} else if n := C.score(f); n > most {
			best, most = cpu, n
		}
	}
	if best == nil {
		return nil, fmt.Errorf("ggml: no libggml-cpu in %s runs on this CPU", dir)
	}
	if f := symbol(best, "ggml_cpu_init"); f != nil {
		C.init(f)
	}
	return &Library{base, best}, nil
}

// Reference returns ggml's reference quantizer for a scheme of package quant,
// nil where it has none.
func (l *Library) Reference(scheme string) Quantizer {
	t, ok := types[scheme]
	if !ok {
		return nil
	}
	return quantizer(symbol(l.base, t.reference))
}

// SIMD returns what ggml itself turns F32 into a scheme's blocks with, nil
// where it has nothing.
func (l *Library) SIMD(scheme string) Quantizer {
	t, ok := types[scheme]
	traits := symbol(l.cpu, "ggml_get_type_traits_cpu")
	if !ok || traits == nil {
		return nil
	}
	return quantizer(C.from_float(traits, C.int(t.number)))
}

type function struct{ f unsafe.Pointer }

func quantizer(f unsafe.Pointer) Quantizer {
	if f == nil {
		return nil
	}
	return function{f}
}

func (q function) Quantize(dst []byte, src []float32) {
	C.quantize(q.f, (*C.float)(&src[0]), unsafe.Pointer(&dst[0]), C.int64_t(len(src)))
}

func load(path string) (unsafe.Pointer, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	h := C.dlopen(name, C.RTLD_NOW)
	if h == nil {
		return nil, fmt.Errorf("ggml: %s", C.GoString(C.dlerror()))
	}
	return h, nil
}

func symbol(library unsafe.Pointer, name string) unsafe.Pointer {
	s := C.CString(name)
	defer C.free(unsafe.Pointer(s))
	return C.dlsym(library, s)
}

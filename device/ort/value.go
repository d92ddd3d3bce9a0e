package ort

/*
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum {
	slotRun = 9,
	slotCreateTensor = 49,
	slotGetTensorMutableData = 51,
	slotGetTensorElementType = 60,
	slotGetDimensionsCount = 61,
	slotGetDimensions = 62,
	slotGetTensorTypeAndShape = 65,
	slotGetValueType = 67,
	slotCreateCpuMemoryInfo = 69,
	slotReleaseMemoryInfo = 94,
	slotReleaseValue = 96,
	slotReleaseTensorTypeAndShapeInfo = 99,
	slotHasValue = 192,
	slotGetTensorSizeInBytes = 318,
};

typedef const void* const* gantry_api; // as in shim.go
typedef void* gantry_status;

// A tensor over memory of the kind that info says; NULL is the CPU's.
static gantry_status gantry_new_tensor(gantry_api a, void* info, void* data, size_t bytes, const int64_t* shape, size_t rank, int type, void** out) {
	enum { deviceAllocator = 0, memTypeDefault = 0 };
	gantry_status (*create)(const void*, void*, size_t, const int64_t*, size_t, int, void**) =
		(gantry_status (*)(const void*, void*, size_t, const int64_t*, size_t, int, void**))a[slotCreateTensor];
	if (info) return create(info, data, bytes, shape, rank, type, out);
	gantry_status s = ((gantry_status (*)(int, int, void**))a[slotCreateCpuMemoryInfo])(deviceAllocator, memTypeDefault, &info);
	if (s) return s;
	s = create(info, data, bytes, shape, rank, type, out);
	((void (*)(void*))a[slotReleaseMemoryInfo])(info);
	return s;
}

static void gantry_release_value(gantry_api a, void* v) {
	((void (*)(void*))a[slotReleaseValue])(v);
}

static gantry_status gantry_run(gantry_api a, void* session, void* options, char** in_names, void** in, size_t n, char** out_names, size_t m, void** out) {
	return ((gantry_status (*)(void*, void*, char**, void**, size_t, char**, size_t, void**))a[slotRun])(session, options, in_names, in, n, out_names, m, out);
}

// The ONNXType of a value, 0 of an optional one that has none: asking for the
// type of that would end the process.
static gantry_status gantry_value_type(gantry_api a, void* v, int* out) {
	*out = 0;
	gantry_status s = ((gantry_status (*)(void*, int*))a[slotHasValue])(v, out);
	if (s || !*out) return s;
	return ((gantry_status (*)(void*, int*))a[slotGetValueType])(v, out);
}

// What a tensor is. Where shape is NULL its length is told only.
static gantry_status gantry_describe(gantry_api a, void* v, int* type, int64_t* shape, size_t* rank) {
	void* info;
	gantry_status s = ((gantry_status (*)(void*, void**))a[slotGetTensorTypeAndShape])(v, &info);
	if (s) return s;
	s = ((gantry_status (*)(void*, int*))a[slotGetTensorElementType])(info, type);
	if (!s && !shape) s = ((gantry_status (*)(void*, size_t*))a[slotGetDimensionsCount])(info, rank);
	if (!s && shape) s = ((gantry_status (*)(void*, int64_t*, size_t))a[slotGetDimensions])(info, shape, *rank);
	((void (*)(void*))a[slotReleaseTensorTypeAndShapeInfo])(info);
	return s;
}

static gantry_status gantry_data(gantry_api a, void* v, void** data, size_t* bytes) {
	gantry_status s = ((gantry_status (*)(void*, size_t*))a[slotGetTensorSizeInBytes])(v, bytes);
	if (s) return s;
	return ((gantry_status (*)(void*, void**))a[slotGetTensorMutableData])(v, data);
}
*/
import "C"

import (
	"runtime"
	"unsafe"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// valueSlots are the slots that this file calls.
var valueSlots = map[string]int{
	"Run":                            C.slotRun,
	"CreateTensorWithDataAsOrtValue": C.slotCreateTensor,
	"GetTensorMutableData":           C.slotGetTensorMutableData,
	"GetTensorElementType":           C.slotGetTensorElementType,
	"GetDimensionsCount":             C.slotGetDimensionsCount,
	"GetDimensions":                  C.slotGetDimensions,
	"GetTensorTypeAndShape":          C.slotGetTensorTypeAndShape,
	"GetValueType":                   C.slotGetValueType,
	"CreateCpuMemoryInfo":            C.slotCreateCpuMemoryInfo,
	"ReleaseMemoryInfo":              C.slotReleaseMemoryInfo,
	"ReleaseValue":                   C.slotReleaseValue,
	"ReleaseTensorTypeAndShapeInfo":  C.slotReleaseTensorTypeAndShapeInfo,
	"HasValue":                       C.slotHasValue,
	"GetTensorSizeInBytes":           C.slotGetTensorSizeInBytes,
}

// Tensor is a named array in this process's memory: row-major, little-endian,
// elements of less than a byte packed from the lowest bits on.
type Tensor struct {
	Name  string
	Type  dtype.Type // Invalid in an output that is no tensor of numbers
	Shape []int64
	Data  []byte
	// At is, instead of Data, the address of a weight in the memory of the
	// session's CUDA device.
	At unsafe.Pointer
}

// validate checks that the memory has the size that type and shape need.
func (t Tensor) validate() error {
	n, err := t.bytes()
	if err != nil {
		return err
	}
	return checkBytes("tensor "+t.Name, t.Data, n)
}

// bytes returns the size that type and shape need.
func (t Tensor) bytes() (int, error) {
	if !Holds(t.Type) {
		return 0, recovery.Errorf(recovery.Unsupported, "ort: ONNX Runtime has no tensors of %s, which %q is", t.Type, t.Name)
	}
	n, err := dtype.Elements(t.Shape)
	if err == nil {
		n, err = t.Type.PaddedBytes(n)
	}
	if err != nil {
		return 0, recovery.Errorf(recovery.Usage, "ort: tensor %q of %s %v: %w", t.Name, t.Type, t.Shape, err)
	}
	return int(n), nil
}

// handle is an OrtValue*.
type handle unsafe.Pointer

// newValue wraps t's memory, which pin holds in place where it is Go's and
// which must outlive the value.
func (l *library) newValue(t Tensor, pin *runtime.Pinner) (handle, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	data := t.Data
	if len(data) == 0 {
		data = make([]byte, 1) // ONNX Runtime takes no null pointer
	}
	pin.Pin(&data[0])
	return l.wrap(t, nil, unsafe.Pointer(&data[0]), len(t.Data))
}

// newWeight wraps a weight where it lies: in t's memory, as newValue does, or on
// the device.
func (l *library) newWeight(t Tensor, on *CUDADevice, pin *runtime.Pinner) (handle, error) {
	if t.At == nil {
		return l.newValue(t, pin)
	}
	if on == nil {
		return nil, recovery.Errorf(recovery.Usage, "ort: weight %q lies on a device, the session does not", t.Name)
	}
	n, err := t.bytes()
	if err != nil {
		return nil, err
	}
	return l.wrap(t, on.device.info, t.At, n)
}

// wrap makes a tensor of t's type and shape over memory of a kind, an
// OrtMemoryInfo; nil is the CPU's.
func (l *library) wrap(t Tensor, info, at unsafe.Pointer, bytes int) (handle, error) {
	shape := t.Shape
	if len(shape) == 0 {
		shape = []int64{1} // of which none are read
	}
	var v unsafe.Pointer
	err := l.check(C.gantry_new_tensor(l.api, info, at, C.size_t(bytes),
		(*C.int64_t)(&shape[0]), C.size_t(len(t.Shape)), C.int(elementType[t.Type]), &v))
	return handle(v), err
}

func (l *library) releaseValues(vs []handle) {
	for _, v := range vs {
		if v != nil {
			C.gantry_release_value(l.api, unsafe.Pointer(v))
		}
	}
}

// run runs an OrtSession with OrtRunOptions and returns its outputs, which are
// the caller's.
func (l *library) run(session, options unsafe.Pointer, inNames []string, in []handle, outNames []string) ([]handle, error) {
	ins, freeIns := cStrings(inNames)
	defer freeIns()
	outs, freeOuts := cStrings(outNames)
	defer freeOuts()
	out := make([]handle, len(outNames))
	err := l.check(C.gantry_run(l.api, session, options,
		unsafe.SliceData(ins), (*unsafe.Pointer)(unsafe.SliceData(in)), C.size_t(len(in)),
		unsafe.SliceData(outs), C.size_t(len(out)), (*unsafe.Pointer)(unsafe.SliceData(out))))
	return out, err
}

func cStrings(list []string) (out []*C.char, free func()) {
	for _, s := range list {
		out = append(out, C.CString(s))
	}
	return out, func() {
		for _, c := range out {
			C.free(unsafe.Pointer(c))
		}
	}
}

// tensor copies what an output holds. Of a text, or what is no tensor, only
// the shape is told, if that.
func (l *library) tensor(name string, v handle) (t Tensor, err error) {
	const onnxTensor = 1
	t.Name = name
	var kind, element C.int
	if err := l.check(C.gantry_value_type(l.api, unsafe.Pointer(v), &kind)); err != nil || kind != onnxTensor {
		return t, err
	}
	var rank C.size_t
	if err := l.check(C.gantry_describe(l.api, unsafe.Pointer(v), &element, nil, &rank)); err != nil {
		return t, err
	}
	shape := make([]int64, rank+1) // never empty
	if err := l.check(C.gantry_describe(l.api, unsafe.Pointer(v), &element, (*C.int64_t)(&shape[0]), &rank)); err != nil {
		return t, err
	}
	t.Shape, t.Type = shape[:rank], typeOf(uint64(element))
	if t.Type == dtype.Invalid {
		return t, nil
	}
	var data unsafe.Pointer
	var bytes C.size_t
	if err := l.check(C.gantry_data(l.api, unsafe.Pointer(v), &data, &bytes)); err != nil {
		return t, err
	}
	t.Data = make([]byte, bytes)
	copy(t.Data, unsafe.Slice((*byte)(data), int(bytes)))
	return t, t.validate()
}

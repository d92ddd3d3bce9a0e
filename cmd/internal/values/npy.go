package values

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// The .npy format, versions 1 to 3
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html): a
// magic, a version, the length of a header, the header, which is a dict in
// Python's syntax, and the elements.
const (
	npyMagic     = "\x93NUMPY"
	npyAlign     = 64
	maxNpyHeader = 64 << 10
	maxNpyDims   = 64
)

// descrs are NumPy's names of types, the first of each as it is written. Types
// that NumPy does not have are stored as its raw bytes, as ml_dtypes does; types
// of less than a byte have a byte for each element.
var descrs = map[dtype.Type][]string{
	dtype.F64: {"<f8"}, dtype.F32: {"<f4"}, dtype.F16: {"<f2"},
	dtype.I64: {"<i8"}, dtype.I32: {"<i4"}, dtype.I16: {"<i2"}, dtype.I8: {"|i1", "<i1"},
	dtype.U64: {"<u8"}, dtype.U32: {"<u4"}, dtype.U16: {"<u2"}, dtype.U8: {"|u1", "<u1"}, dtype.Bool: {"|b1"},
	dtype.BF16:   {"<V2", "|V2"},
	dtype.F8E4M3: {"|V1", "|u1"}, dtype.F8E5M2: {"|V1", "|u1"}, dtype.F8E4M3FNUZ: {"|V1", "|u1"}, dtype.F8E5M2FNUZ: {"|V1", "|u1"},
	dtype.I4: {"|i1", "|V1"}, dtype.U4: {"|u1", "|V1"}, dtype.F4: {"|u1", "|V1"},
}

// readNpy reads a file as a tensor of type t. Errors: not_found and not_allowed
// where it cannot be opened, usage for what is in it.
func readNpy(path string, t dtype.Type) (ort.Tensor, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		class := recovery.NotFound
		if errors.Is(err, os.ErrPermission) {
			class = recovery.NotAllowed
		}
		return ort.Tensor{}, &recovery.Error{Class: class, Op: "read input", File: path, Err: cause(err)}
	}
	x, err := parseNpy(b, t)
	if err != nil {
		return x, &recovery.Error{Class: recovery.Usage, Op: "read input", File: path, Err: err}
	}
	return x, nil
}

// cause is an error without the path that it names.
func cause(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

var (
	npyDescr   = regexp.MustCompile(`['"]descr['"]\s*:\s*['"]([^'"]*)['"]`)
	npyFortran = regexp.MustCompile(`['"]fortran_order['"]\s*:\s*(True|False)`)
	npyShape   = regexp.MustCompile(`['"]shape['"]\s*:\s*\(([0-9, ]*)\)`)
)

// parseNpy reads a file's bytes as a tensor of type t, over the same memory
// where elements are whole bytes.
func parseNpy(b []byte, t dtype.Type) (x ort.Tensor, err error) {
	header, data, err := splitNpy(b)
	if err != nil {
		return x, err
	}
	descr, fortran, shape := npyDescr.FindStringSubmatch(header), npyFortran.FindStringSubmatch(header), npyShape.FindStringSubmatch(header)
	if descr == nil || fortran == nil || shape == nil {
		return x, fmt.Errorf("its header is not that of one array of numbers: %.80q", header)
	}
	fits := false
	for _, d := range descrs[t] {
		fits = fits || d == descr[1]
	}
	if !fits {
		return x, fmt.Errorf("its elements are %q, want %s: %s", descr[1], t, strings.Join(descrs[t], " or "))
	}
	x = ort.Tensor{Type: t, Shape: []int64{}}
	for f := range strings.SplitSeq(shape[1], ",") {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		d, err := strconv.ParseInt(f, 10, 64)
		if err != nil || len(x.Shape) == maxNpyDims {
			return x, fmt.Errorf("its shape (%.40s) is none", shape[1])
		}
		x.Shape = append(x.Shape, d)
	}
	if fortran[1] == "True" && len(x.Shape) > 1 {
		return x, errors.New("it is in Fortran order: save numpy.ascontiguousarray of it")
	}
	n, err := dtype.Elements(x.Shape)
	if err != nil {
		return x, err
	}
	size := max(int64(t.Bits()/8), 1)
	if int64(len(data))/size != n || int64(len(data))%size != 0 {
		return x, fmt.Errorf("it has %d bytes of elements, its shape %v needs %d of %d bytes each", len(data), x.Shape, n, size)
	}
	x.Data = data
	if t.Bits() < 8 {
		x.Data, err = pack(t, data)
	}
	return x, err
}

// splitNpy returns the header's dict and the elements.
func splitNpy(b []byte) (string, []byte, error) {
	if len(b) < 12 || string(b[:6]) != npyMagic {
		return "", nil, errors.New("it is no .npy file")
	}
	n, at := int64(binary.LittleEndian.Uint16(b[8:])), int64(10)
	switch b[6] {
	case 1:
	case 2, 3:
		n, at = int64(binary.LittleEndian.Uint32(b[8:])), 12
	default:
		return "", nil, fmt.Errorf("version %d of the .npy format is not known", b[6])
	}
	if n > maxNpyHeader || n > int64(len(b))-at {
		return "", nil, fmt.Errorf("its header is said to have %d bytes: truncated, or no .npy file", n)
	}
	return string(b[at : at+n]), b[at+n:], nil
}

// pack makes elements of less than a byte of one byte each.
func pack(t dtype.Type, data []byte) ([]byte, error) {
	size, err := t.PaddedBytes(int64(len(data)))
	if err != nil {
		return nil, err
	}
	out, bits := make([]byte, size), t.Bits()
	for i, v := range data {
		low, high := int8(0), int8(1<<bits-1)
		if t == dtype.I4 {
			low, high = -8, 7
		}
		if int8(v) < low || int8(v) > high {
			return nil, fmt.Errorf("element %d is %d, which does not fit %s", i, int8(v), t)
		}
		putBits(out, i, bits, uint64(v))
	}
	return out, nil
}

// WriteNpy writes a tensor of numbers to a file, whole or not at all.
func WriteNpy(path string, x ort.Tensor) error {
	b := append(npyHeader(x), unpacked(x)...)
	f, err := outfile.Create(path, int64(len(b)))
	if err != nil {
		return err
	}
	if err := f.WriteAt(b, 0); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit()
}

func npyHeader(x ort.Tensor) []byte {
	var shape strings.Builder
	for _, d := range x.Shape {
		fmt.Fprintf(&shape, "%d, ", d)
	}
	dims := strings.TrimSuffix(shape.String(), " ")
	if len(x.Shape) != 1 {
		dims = strings.TrimSuffix(dims, ",")
	}
	dict := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descrs[x.Type][0], dims)
	fixed := len(npyMagic) + 4
	pad := (npyAlign - (fixed+len(dict)+1)%npyAlign) % npyAlign
	var b bytes.Buffer
	b.WriteString(npyMagic + "\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(dict)+pad+1)))
	b.WriteString(dict + strings.Repeat(" ", pad) + "\n")
	return b.Bytes()
}

// unpacked has a byte for each element of less than that.
func unpacked(x ort.Tensor) []byte {
	if x.Type.Bits() >= 8 {
		return x.Data
	}
	n, err := dtype.Elements(x.Shape)
	if err != nil {
		return nil // no tensor in memory has such a shape
	}
	out := make([]byte, n)
	for i := range out {
		switch v := Number(x.Type, x.Data, i).(type) {
		case int64:
			out[i] = byte(v)
		case uint64:
			out[i] = byte(v)
		}
	}
	return out
}

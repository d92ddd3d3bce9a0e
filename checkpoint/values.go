package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// valuesSuffix makes the name of what is decoded of an ONNX model from the
// model's. Since it would be a file below a file, no source has it.
const valuesSuffix = onnxSuffix + "/values"

// valueFile is the file, in an Index, of tensors that the model's own file
// holds in a coded form.
func valueFile(model source.File, h *onnx.Header) source.File {
	return source.File{Name: strings.TrimSuffix(model.Name, onnxSuffix) + valuesSuffix, Size: h.ValueBytes(), ID: model.ID}
}

// WithValues returns src with the files that an Index names and no source has:
// what is decoded of an ONNX model whose file holds short lists of integers in
// a coded form. Opening one reads and decodes them; they are in memory until
// the reader is closed, at most onnx.MaxValueBytes.
func WithValues(src source.Source) source.Source { return valueSource{src} }

type valueSource struct{ source.Source }

func (s valueSource) Open(ctx context.Context, name string) (source.Reader, error) {
	stem, ok := strings.CutSuffix(name, valuesSuffix)
	if !ok {
		return s.Source.Open(ctx, name)
	}
	r, err := s.Source.Open(ctx, stem+onnxSuffix)
	if err != nil {
		return nil, err
	}
	h, err := onnx.Read(ctx, r)
	v := &valueReader{}
	if err == nil {
		v.file = valueFile(r.File(), h)
		v.values, err = h.Values(ctx, r)
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return v, nil
}

// valueReader is a file in memory.
type valueReader struct {
	file   source.File
	values []byte
}

func (v *valueReader) File() source.File { return v.file }
func (v *valueReader) Close() error      { return nil }

func (v *valueReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if off < 0 || off > int64(len(v.values)) || copy(p, v.values[off:]) < len(p) {
		return &recovery.Error{Class: recovery.SourceChanged, Op: "read", File: v.file.Name, Offset: off, Length: int64(len(p)),
			Err: fmt.Errorf("it has %d bytes", len(v.values))}
	}
	return nil
}

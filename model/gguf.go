package model

import (
	"context"
	"errors"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// ExportGGUF writes the model as one GGUF file that llama.cpp runs. Tensors
// have its names and its order of rows, vectors are F32, and the metadata
// comes from config.json and the tokenizer's files, or is that of the GGUF file
// that was loaded. The layout changes no byte. The file appears whole or not at
// all; its digests are written beside it at the end.
//
// The warnings, one line each, say what the file lacks, such as a tokenizer.
// Errors: usage where GGUF has no layout for a scheme; unsupported for models
// that llama.cpp has no names for; those of the source and of writing.
func (m *Model) ExportGGUF(ctx context.Context, path string) (warnings []string, err error) {
	if m.parts.Open == nil {
		return nil, recovery.Errorf(recovery.Internal, "model %s does not know where it came from", m.parts.Name)
	}
	g, err := ggufModelOf(ctx, m.parts.Name, m.parts.Index, m.parts.Plan, m.parts.Open)
	if err != nil {
		return nil, err
	}
	var list []gguf.Tensor
	for _, t := range g.tensors {
		list = append(list, t.Tensor)
	}
	for _, f := range g.factors {
		list = append(list, gguf.Tensor{Name: f.Name, DType: dtype.F32, Shape: []int64{int64(len(f.Values))}})
	}
	w, err := gguf.Create(path, list, g.entries)
	if err != nil {
		return nil, err
	}
	for i, t := range g.tensors {
		out := outWriter{m: m, write: func(p []byte, off int64) error { return w.WriteTensor(i, p, off) }}
		for _, o := range t.from {
			if err := out.writePlane(ctx, o); err != nil {
				return nil, errors.Join(err, w.Abort())
			}
		}
	}
	for i, f := range g.factors {
		if err := w.WriteTensor(len(g.tensors)+i, littleEndian(f.Values), 0); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
	}
	if err := w.Commit(); err != nil {
		return nil, err
	}
	return g.warnings, digests.WriteBeside(ctx, path)
}

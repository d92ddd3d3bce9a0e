package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

const (
	extension  = ".safetensors"
	fileName   = "model" + extension
	configName = "config.json"
	// exportBytes is about how many encoded bytes are joined at once.
	exportBytes = 4 << 20
)

// Export writes the model as one safetensors file, with config.json beside it
// where the checkpoint had one: to path where that ends in .safetensors, else
// to model.safetensors in the folder path, which it makes. Tensors are joined
// over the ranks, so that the layout changes no byte; what a scheme makes of
// them is stored as compressed-tensors defines it. Each file appears whole or
// not at all.
//
// Errors: those of Exportable; usage where another model's config.json lies
// there; and those of writing.
func (m *Model) Export(ctx context.Context, path string) error {
	if err := Exportable(m.parts.Plan); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if !strings.HasSuffix(path, extension) {
		dir, path = path, filepath.Join(path, fileName)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return &recovery.Error{Class: recovery.NotAllowed, Op: "create", File: dir, Err: err}
		}
	}
	config, err := m.exportConfig()
	if err != nil {
		return err
	}
	configPath := filepath.Join(dir, configName)
	if err := keepsOther(configPath, config); err != nil {
		return err
	}
	if err := m.exportTensors(ctx, path); err != nil {
		return err
	}
	if config == nil {
		return nil
	}
	return writeWhole(configPath, config)
}

// exported returns the planes of a tensor that a file gets: what it became,
// not the original beside it.
func (m *Model) exported(tensor int) []quant.Plane {
	planes := m.parts.Plan.Tensors[tensor].Layout.Planes
	if quant.HasOriginal(m.schemes[tensor]) {
		planes = planes[:len(planes)-1]
	}
	return planes
}

// Exportable says why Export would refuse what a plan makes: with class usage
// where safetensors has no layout for a scheme; with class unsupported where it
// has none of a tensor's element type, or where engines would take a weight
// that is stored [in, out], under its name, for [out, in].
func Exportable(p *shard.Plan) error {
	for _, t := range p.Tensors {
		if why := notExported(&t); why != nil {
			return &recovery.Error{Class: recovery.Unsupported, Op: "export", Tensor: t.Name, Err: why}
		}
		switch scheme, _, _ := strings.Cut(t.Scheme, "+"); scheme {
		case "none", "f32", "f16", "bf16", "int8":
		default:
			return &recovery.Error{Class: recovery.Usage, Op: "export", Tensor: t.Name,
				Err:  fmt.Errorf("safetensors has no layout for %s", t.Scheme),
				Hint: "export int8, f16, bf16 or f32; writing GGUF comes in a later version"}
		}
	}
	return nil
}

// notExported says why a tensor cannot be written as it is stored.
func notExported(t *shard.Tensor) error {
	switch {
	case t.Transposed:
		return errors.New("it is stored [in, out], as the second operand of a matrix product, and safetensors have weights [out, in]")
	case t.Scheme == "none" && !t.DType.Safetensors():
		return fmt.Errorf("safetensors has no element type %s", t.DType)
	}
	return nil
}

// exportTensors writes the file.
func (m *Model) exportTensors(ctx context.Context, path string) (err error) {
	var list []safetensors.Tensor
	for i := range m.parts.Plan.Tensors {
		t := &m.parts.Plan.Tensors[i]
		for _, p := range m.exported(i) {
			shape := t.Shape
			if p.Cols == 0 { // one unit for each row
				shape = []int64{t.Rows, 1}
			}
			list = append(list, safetensors.Tensor{Name: t.Name + p.Suffix, DType: p.DType, Shape: shape})
		}
	}
	w, err := safetensors.Create(path, list, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	next := 0
	for i := range m.parts.Plan.Tensors {
		if err := m.exportTensor(ctx, w, next, i); err != nil {
			return errors.Join(err, w.Abort())
		}
		next += len(m.exported(i))
	}
	return w.Commit()
}

// exportTensor writes the planes of a tensor to the file's tensors from first
// on.
func (m *Model) exportTensor(ctx context.Context, w *safetensors.Writer, first, tensor int) error {
	t := &m.parts.Plan.Tensors[tensor]
	var row int64
	for _, p := range t.Layout.Planes {
		row += p.RowBytes(t.Cols)
	}
	step := max(exportBytes/max(row, 1), 1)
	for at := int64(0); at < t.Rows; at += step {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rows := shard.Span{Start: at, Stop: min(at+step, t.Rows)}
		planes, err := newTensor(m, tensor).rows(rows)
		if err != nil {
			return err
		}
		for i, p := range m.exported(tensor) {
			if err := w.WriteTensor(first+i, planes[i], at*p.RowBytes(t.Cols)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepsOther refuses to replace the config.json of another model.
func keepsOther(path string, config []byte) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && (config == nil || bytes.Equal(old, config)) {
		return nil
	}
	if err == nil {
		err = errors.New("it is there already and another model's")
	}
	return &recovery.Error{Class: recovery.Usage, Op: "write", File: path, Err: err, Hint: "export to a folder of its own"}
}

// writeWhole writes a small file under a temporary name and renames it.
func writeWhole(path string, data []byte) error {
	fail := func(err error) error {
		return &recovery.Error{Class: recovery.Unavailable, Op: "write", File: path, Err: err}
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fail(err), os.Remove(f.Name()))
	}
	return nil
}

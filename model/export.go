package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

const (
	extension  = ".safetensors"
	fileName   = "model" + extension
	configName = "config.json"
	// exportBytes is about how many encoded bytes are joined at once, or those
	// of packedRows rows.
	exportBytes = 4 << 20
)

// Export writes the model as one safetensors file, with config.json beside it
// where the checkpoint had one: to path where that ends in .safetensors, else
// to model.safetensors in the folder path, which it makes and which gets the
// checkpoint's side files too. Tensors are joined over the ranks, so that the
// layout changes no byte; the file's digests are written beside it at the end.
// What a scheme makes of
// them is stored as quant.FormatOf says. Each file appears whole or
// not at all.
//
// Errors: those of Exportable; usage where another model's config.json lies
// there; and those of writing.
func (m *Model) Export(ctx context.Context, path string) (err error) {
	path, folder := exportFile(path)
	config, err := m.safetensorsConfig(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	configPath := filepath.Join(dir, configName)
	if folder {
		undo, folderErr := outfile.MakeFolder(dir)
		if folderErr != nil {
			return folderErr
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, undo())
			}
		}()
	}
	if err := m.exportTensors(ctx, path); err != nil {
		return err
	}
	if config != nil {
		if err := outfile.Write(configPath, config); err != nil {
			return err
		}
	}
	if folder {
		if err := m.exportSide(ctx, dir); err != nil {
			return err
		}
	}
	return digests.WriteBeside(ctx, path)
}

// exportFile returns the file that an export to a path writes, and whether the
// path is a folder.
func exportFile(path string) (file string, folder bool) {
	if strings.HasSuffix(path, extension) {
		return path, false
	}
	return filepath.Join(path, fileName), true
}

// safetensorsConfig returns the config.json of an export to a file, nil for
// none, or why the export is refused. It writes nothing.
func (m *Model) safetensorsConfig(file string) ([]byte, error) {
	if err := Exportable(m.parts.Plan); err != nil {
		return nil, err
	}
	config, err := m.exportConfig()
	if err != nil {
		return nil, err
	}
	return config, keepsOther(filepath.Join(filepath.Dir(file), configName), config, file)
}

// CheckExport says why Export, or ExportGGUF where the path ends in .gguf,
// would refuse to write a model to a path. It needs no arenas and writes
// nothing.
func CheckExport(ctx context.Context, p Parts, path string) error {
	m, err := describe(p)
	if err != nil {
		return err
	}
	if strings.HasSuffix(path, ".gguf") {
		_, err = ggufModelOf(ctx, p.Name, p.Index, p.Plan, p.Open)
		return err
	}
	file, _ := exportFile(path)
	_, err = m.safetensorsConfig(file)
	return err
}

// exportSide writes the checkpoint's side files, which engines look for in a
// model's folder: tokenizer, chat template and the like.
func (m *Model) exportSide(ctx context.Context, dir string) (err error) {
	if m.parts.Open == nil {
		return recovery.Errorf(recovery.Internal, "model %s does not know where it came from", m.parts.Name)
	}
	src, err := m.parts.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	files, err := m.parts.Index.ReadSide(ctx, src)
	if err != nil {
		return err
	}
	for name, data := range files {
		if name == configName {
			continue
		}
		if err := outfile.Write(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// Exportable says why Export would refuse what a plan makes: with class usage
// where safetensors has no layout for a scheme; with class unsupported where it
// has none of a tensor's element type, or where engines would take a weight
// that is stored [in, out], under its name, for [out, in].
func Exportable(p *shard.Plan) error {
	methods := map[string]string{} // to a tensor that has it
	for _, t := range p.Tensors {
		if why := notExported(&t); why != nil {
			e := &recovery.Error{Class: recovery.Unsupported, Op: "export", Tensor: t.Name, Err: why}
			if t.DType.Quantized() {
				e.Hint = fmt.Sprintf("decode it with --quant-override '%s=f16', or write GGUF", t.Name)
			}
			return e
		}
		s, err := quant.Parse(t.Scheme)
		if err != nil {
			return err
		}
		format, ok := quant.FormatOf(s)
		if !ok {
			return &recovery.Error{Class: recovery.Usage, Op: "export", Tensor: t.Name,
				Err:  fmt.Errorf("no layout for %s in safetensors has been published", t.Scheme),
				Hint: "write ggml's types as GGUF"}
		}
		if format.Method == quant.Plain {
			continue
		}
		if turned(p, &t) {
			return &recovery.Error{Class: recovery.Unsupported, Op: "export", Tensor: t.Name,
				Err:  fmt.Errorf("safetensors have GPT-2's projections [in, out], where no scale of %s runs along inputs", t.Scheme),
				Hint: "export to f16, bf16 or f32, or as GGUF"}
		}
		methods[format.Method] = t.Name
	}
	if a, b := methods[quant.CompressedTensors], methods[quant.BitsAndBytes]; a != "" && b != "" {
		return &recovery.Error{Class: recovery.Usage, Op: "export", Tensor: b,
			Err: fmt.Errorf("one quantization_config cannot say bitsandbytes and, of %s, compressed-tensors", a)}
	}
	return nil
}

// SafetensorsOverrides returns what a plan must be made with besides, so that
// what its scheme leaves in blocks of ggml's, for which safetensors have no
// type, becomes F32: exactly what it stands for. There is one for each name,
// whatever the layer, unless other layers have something else under it.
func SafetensorsOverrides(p *shard.Plan) []quant.Override {
	if p.Options.Scheme == "" || p.Options.Scheme == "none" {
		return nil // it is to stay as it is stored
	}
	blocks := func(t *shard.Tensor) bool {
		return t.Scheme == "none" && t.DType.Quantized() && quant.Decodes(t.DType)
	}
	others := map[quant.Override]bool{} // whether a layer has something else under that name
	for i := range p.Tensors {
		o := layersOverride(p.Tensors[i].Name, "f32")
		others[o] = others[o] || !blocks(&p.Tensors[i])
	}
	var list []quant.Override
	for i := range p.Tensors {
		if !blocks(&p.Tensors[i]) {
			continue
		}
		o := layersOverride(p.Tensors[i].Name, "f32")
		if others[o] {
			o.Pattern = globs.Replace(p.Tensors[i].Name)
		}
		if !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	return list
}

// notExported says why a tensor cannot be written as it is stored.
func notExported(t *shard.Tensor) error {
	switch {
	case t.Transposed && !conv1D.Transposed(t.Name): // which has them so
		return errors.New("it is stored [in, out], as the second operand of a matrix product, and safetensors have weights [out, in]")
	case t.Scheme == "none" && !t.DType.Safetensors():
		return fmt.Errorf("safetensors has no element type %s", t.DType)
	}
	return nil
}

// conv1D names the weights that Hugging Face stores [in, out].
var conv1D = names.ForModel("gpt2")

// turned says whether a tensor is [out, in] here, as a GGUF file has GPT-2's
// projections, and [in, out] under its Hugging Face name. No other file has
// such names without saying that it is transposed.
func turned(p *shard.Plan, t *shard.Tensor) bool {
	return !t.Transposed && len(t.Shape) == 2 && conv1D.Transposed(t.Name) && filepath.Ext(p.Files[t.File].Name) == ".gguf"
}

// exportTensors writes the file.
func (m *Model) exportTensors(ctx context.Context, path string) (err error) {
	files := make([][]fileTensor, len(m.parts.Plan.Tensors))
	var list []safetensors.Tensor
	for i := range files {
		if files[i], err = m.fileTensors(i); err != nil {
			return err
		}
		for _, f := range files[i] {
			list = append(list, f.Tensor)
		}
	}
	w, err := safetensors.Create(path, list, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	next := 0
	for i, f := range files {
		if err := m.exportTensor(ctx, w, next, i, f); err != nil {
			return errors.Join(err, w.Abort())
		}
		next += len(f)
	}
	return w.Commit()
}

// exportTensor writes one of the model's tensors to the file's tensors from
// first on.
func (m *Model) exportTensor(ctx context.Context, w *safetensors.Writer, first, tensor int, files []fileTensor) error {
	t := &m.parts.Plan.Tensors[tensor]
	var row int64
	for _, p := range t.Layout.Planes {
		row += p.RowBytes(t.Cols)
	}
	step := max(exportBytes/max(row, 1)/packedRows, 1) * packedRows
	for at := int64(0); at < t.Rows; at += step {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rows := shard.Span{Start: at, Stop: min(at+step, t.Rows)}
		planes, err := newTensor(m, tensor).rows(rows)
		if err != nil {
			return err
		}
		for i := range files {
			if err := files[i].write(w, first+i, rows, planes); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepsOther refuses to replace the config.json of another model than the one
// that file is written in place of.
func keepsOther(path string, config []byte, file string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && (config == nil || bytes.Equal(old, config)) {
		return nil
	}
	if err == nil {
		beside, globErr := filepath.Glob(filepath.Join(globs.Replace(filepath.Dir(path)), "*"+extension))
		if globErr == nil && slices.Equal(beside, []string{filepath.Clean(file)}) {
			return nil
		}
		err = errors.New("it is there already and another model's")
	}
	return &recovery.Error{Class: recovery.Usage, Op: "write", File: path, Err: err, Hint: "export to a folder of its own"}
}

package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// File names of a Hugging Face folder, and limits on what is read whole.
const (
	singleName     = "model.safetensors"
	indexSuffix    = ".safetensors.index.json"
	ggufSuffix     = ".gguf"
	onnxSuffix     = ".onnx"
	onnxName       = "model.onnx"
	configName     = "config.json"
	maxIndexBytes  = safetensors.MaxHeaderBytes
	maxConfigBytes = 4 << 20
)

// The formats that Index.Format names.
const (
	FormatSafetensors = "safetensors"
	FormatGGUF        = "gguf"
	FormatONNX        = "onnx"
)

// sideNames are the files that engines expect beside the weights.
var sideNames = []string{
	"added_tokens.json", "chat_template.jinja", "chat_template.json", configName,
	"generation_config.json", "merges.txt", "preprocessor_config.json", "processor_config.json",
	"sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tekken.json", "tokenizer.json",
	"tokenizer.model", "tokenizer.model.v3", "tokenizer_config.json", "vocab.json", "vocab.txt",
}

// Open reads the headers of the checkpoint that src names and checks every
// claim in them. The source's entry decides where it names a file: one
// .safetensors file, the index of a sharded checkpoint, a .gguf file, with the
// other parts where it is one of a split model, or an .onnx file, with its
// external data. In a folder it is model.safetensors, else the one index, else
// the one .safetensors file, else the one GGUF model, else model.onnx or the
// one .onnx file.
//
// Errors: invalid_checkpoint with file and, where it is known, tensor and
// bytes; unsupported for other formats; not_found where there is nothing to
// open; and the source's own.
func Open(ctx context.Context, src source.Source) (*Index, error) {
	files, err := src.Files(ctx)
	if err != nil {
		return nil, err
	}
	name, err := choose(src, files)
	if err != nil {
		return nil, err
	}
	ix := &Index{Format: FormatSafetensors, Tensors: []Tensor{}} // [], not null, where there are none
	for _, f := range files {
		if slices.Contains(sideNames, f.Name) {
			ix.SideFiles = append(ix.SideFiles, f)
		}
	}
	sharded := strings.HasSuffix(name, indexSuffix)
	switch {
	case strings.HasSuffix(name, ggufSuffix):
		ix.Format = FormatGGUF
		if err := openGGUF(ctx, src, files, ix, name); err != nil {
			return nil, err
		}
		return ix, ix.readRequire(ctx, src, files)
	case strings.HasSuffix(name, onnxSuffix):
		ix.Format = FormatONNX
		err = openONNX(ctx, src, ix, name)
	case sharded:
		err = openShards(ctx, src, ix, name)
	default:
		err = openSingle(ctx, src, ix, name)
	}
	if err != nil {
		return nil, err
	}
	// A single file that the user named may be one shard of a model: layers
	// may be missing from it. From a checkpoint they may not.
	whole := sharded || src.Entry() == "" || ix.Format == FormatONNX
	if err := describe(ctx, src, ix, files, whole); err != nil {
		return nil, err
	}
	return ix, ix.readRequire(ctx, src, files)
}

// choose returns the file that a checkpoint is opened by.
func choose(src source.Source, files []source.File) (string, error) {
	if entry := src.Entry(); entry != "" {
		for _, suffix := range []string{".safetensors", indexSuffix, ggufSuffix, onnxSuffix} {
			if strings.HasSuffix(entry, suffix) {
				return entry, nil
			}
		}
		return "", unsupported(src, entry)
	}
	var indexes, tensors, onnxs, others []string
	ggufs := map[ggufSet]string{} // a file of each
	for _, f := range files {
		switch {
		case f.Name == singleName:
			return singleName, nil
		case strings.HasSuffix(f.Name, indexSuffix):
			indexes = append(indexes, f.Name)
		case strings.HasSuffix(f.Name, ".safetensors"):
			tensors = append(tensors, f.Name)
		case strings.HasSuffix(f.Name, ggufSuffix):
			set, _ := ggufSetOf(f.Name)
			ggufs[set] = f.Name
		case strings.HasSuffix(f.Name, onnxSuffix):
			onnxs = append(onnxs, f.Name)
		case slices.Contains(otherFormats, path.Ext(f.Name)):
			others = append(others, f.Name)
		}
	}
	switch {
	case slices.Contains(indexes, singleName+".index.json"):
		return singleName + ".index.json", nil
	case len(indexes) == 1:
		return indexes[0], nil
	case len(indexes) == 0 && len(tensors) == 1:
		return tensors[0], nil
	case len(indexes)+len(tensors) > 0:
		return "", &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: src.URI(),
			Err: errors.New("several safetensors files, but no model.safetensors and no one index"), Hint: "name the file to open"}
	case len(ggufs) == 1:
		for _, name := range ggufs {
			return name, nil
		}
	case len(ggufs) > 1:
		return "", &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: src.URI(),
			Err: fmt.Errorf("%d GGUF models in one folder", len(ggufs)), Hint: "name the file to open"}
	case slices.Contains(onnxs, onnxName):
		return onnxName, nil
	case len(onnxs) == 1:
		return onnxs[0], nil
	case len(onnxs) > 1:
		return "", &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: src.URI(),
			Err: fmt.Errorf("%d ONNX models in one folder, and no %s", len(onnxs), onnxName), Hint: "name the file to open"}
	case len(others) > 0:
		return "", unsupported(src, others[0])
	}
	return "", &recovery.Error{Class: recovery.NotFound, Op: "open", File: src.URI(),
		Err: errors.New("no checkpoint in this folder"), Hint: "it should hold model.safetensors, model.safetensors.index.json and its shards, a .gguf or an .onnx file"}
}

// otherFormats are endings of checkpoints that this version does not read.
var otherFormats = []string{".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}

func unsupported(src source.Source, name string) error {
	e := &recovery.Error{Class: recovery.Unsupported, Op: "open", File: name,
		Err:  fmt.Errorf("%s files are not supported in this version", path.Ext(name)),
		Hint: "convert the checkpoint to safetensors"}
	if !slices.Contains(otherFormats, path.Ext(name)) {
		e.Err = errors.New("not a checkpoint by its name")
		e.Hint = "name a .safetensors file, an index, a .gguf or an .onnx file, or their folder"
	}
	return e
}

func openSingle(ctx context.Context, src source.Source, ix *Index, name string) error {
	file, h, err := readHeader(ctx, src, name)
	if err != nil {
		return err
	}
	ix.add([]source.File{file}, []*safetensors.Header{h})
	return nil
}

func readHeader(ctx context.Context, src source.Source, name string) (source.File, *safetensors.Header, error) {
	r, err := src.Open(ctx, name)
	if err != nil {
		return source.File{}, nil, err
	}
	h, err := safetensors.Read(ctx, r)
	return r.File(), h, cmp.Or(err, r.Close())
}

// add sets files and their tensors, which come by offset.
func (ix *Index) add(files []source.File, headers []*safetensors.Header) {
	ix.Files = files
	if len(headers) == 1 {
		ix.Tensors = headers[0].Tensors
	} else {
		n := 0
		for _, h := range headers {
			n += len(h.Tensors)
		}
		ix.Tensors = make([]Tensor, 0, n)
		for i, h := range headers {
			for _, t := range h.Tensors {
				t.File = int32(i)
				ix.Tensors = append(ix.Tensors, t)
			}
		}
	}
	// Shards may say the same thing each; what they contradict each other in
	// counts as the first says.
	for _, h := range headers {
		for k, v := range h.Metadata {
			ix.say(k, v)
		}
	}
}

// say adds what a file says to the metadata, unless one before it did.
func (ix *Index) say(key, value string) {
	if ix.Metadata == nil {
		ix.Metadata = map[string]string{}
	}
	if _, ok := ix.Metadata[key]; !ok {
		ix.Metadata[key] = value
	}
}

// readAll reads a small file whole.
func readAll(ctx context.Context, src source.Source, name string, limit int64) ([]byte, error) {
	r, err := src.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	size := r.File().Size
	if size > limit {
		return nil, cmp.Or(invalid(name, "%d bytes, at most %d are allowed", size, limit), r.Close())
	}
	data := make([]byte, size)
	err = r.ReadAt(ctx, data, 0)
	return data, cmp.Or(err, r.Close())
}

func invalid(file, format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: file, Err: fmt.Errorf(format, args...)}
}

func invalidTensor(file, tensor, format string, args ...any) error {
	return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "open", File: file, Tensor: tensor, Err: fmt.Errorf(format, args...)}
}

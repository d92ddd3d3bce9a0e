package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/checkpoint/gguf/hparams"
	"github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/checkpoint/gguf/vocab"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Keys that say how a file's tensors are kept.
const (
	architectureKey = "general.architecture"
	fileTypeKey     = "general.file_type"
	quantVersionKey = "general.quantization_version"
	quantVersion    = 2 // of ggml's block types, GGML_QNT_VERSION
)

// fileTypes are llama.cpp's numbers for what most tensors of a file are
// (llama_ftype in include/llama.h).
var fileTypes = map[dtype.Type]uint32{
	dtype.F32: 0, dtype.F16: 1, dtype.Q4_0: 2, dtype.Q4_1: 3, dtype.Q8_0: 7, dtype.Q5_0: 8, dtype.Q5_1: 9,
	dtype.Q2_K: 10, dtype.Q3_K: 11, dtype.Q4_K: 14, dtype.Q5_K: 16, dtype.Q6_K: 18,
	dtype.IQ2_XXS: 19, dtype.IQ2_XS: 20, dtype.IQ3_XXS: 23, dtype.IQ1_S: 24, dtype.IQ4_NL: 25, dtype.IQ3_S: 26,
	dtype.IQ2_S: 28, dtype.IQ4_XS: 30, dtype.IQ1_M: 31, dtype.BF16: 32, dtype.TQ1_0: 36, dtype.TQ2_0: 37, dtype.MXFP4: 38,
}

// recipeTypes are those of recipes that mix types, by the scheme's name.
var recipeTypes = map[string]uint32{
	"q2_K_M": 10, "q3_K_S": 11, "q3_K_M": 12, "q3_K_L": 13, "q4_K_S": 14, "q4_K_M": 15, "q5_K_S": 16, "q5_K_M": 17,
}

// ggufModel is what a GGUF file says of a model.
type ggufModel struct {
	entries  []gguf.Entry
	tensors  []ggufTensor
	factors  []hparams.Factors
	warnings []string
}

// ggufModelOf describes a model as GGUF does. open opens the checkpoint's
// source, for the tokenizer's files or a GGUF file's metadata.
func ggufModelOf(ctx context.Context, name string, ix *checkpoint.Index, p *shard.Plan, open func(context.Context) (source.Source, error)) (_ *ggufModel, err error) {
	src, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	g := &ggufModel{}
	if ix.Format == checkpoint.FormatGGUF {
		err = g.fromGGUF(ctx, ix, p, src)
	} else {
		err = g.fromHuggingFace(ctx, name, ix, p, src)
	}
	if err != nil {
		return nil, err
	}
	g.stamp(p.Options.Scheme)
	return g, nil
}

// fromGGUF keeps what the source says.
func (g *ggufModel) fromGGUF(ctx context.Context, ix *checkpoint.Index, p *shard.Plan, src source.Source) (err error) {
	if g.entries, err = ix.GGUFMetadata(ctx, src); err != nil {
		return err
	}
	a := ix.Architecture
	table := names.ForModel(a.Name)
	if table != nil && table.Arch() != ix.Metadata[architectureKey] {
		table = nil // another model of that name, whose tensors kept their names
	}
	g.tensors, err = ggufTensors(ix, p, table, a.HeadDim)
	return err
}

// fromHuggingFace takes the metadata from config.json and the tokenizer's
// files.
func (g *ggufModel) fromHuggingFace(ctx context.Context, name string, ix *checkpoint.Index, p *shard.Plan, src source.Source) error {
	if ix.Config == nil {
		return &recovery.Error{Class: recovery.Unsupported, Op: "export", File: configName,
			Err: errors.New("there is none, and a GGUF file must say what the model is"), Hint: "put the model's config.json beside its weights, and name their folder"}
	}
	var c struct {
		Model string `json:"model_type"`
	}
	if err := json.Unmarshal(ix.Config, &c); err != nil {
		return &recovery.Error{Class: recovery.InvalidCheckpoint, Op: "export", File: configName, Err: err}
	}
	table := names.ForModel(c.Model)
	if table == nil {
		return &recovery.Error{Class: recovery.Unsupported, Op: "export", File: configName,
			Err: fmt.Errorf("models of type %q cannot be written as GGUF in this version", c.Model), Hint: "export to safetensors"}
	}
	rows := int64(0)
	for i := range p.Tensors {
		if n, _, ok := table.GGUF(p.Tensors[i].Name); ok && n == "token_embd.weight" {
			rows = p.Tensors[i].Rows
		}
	}
	params, err := hparams.New(table.Arch(), ix.Config, rows)
	if err != nil {
		return err
	}
	files, err := ix.ReadSide(ctx, src, vocab.FileNames...)
	if err != nil {
		return err
	}
	words, err := vocab.New(files, ix.Config, rows)
	if err != nil {
		return err
	}
	g.entries = slices.Concat([]gguf.Entry{gguf.NewEntry(architectureKey, table.Arch()), gguf.NewEntry("general.name", name)}, params.Entries, words.Entries())
	g.factors, g.warnings = params.Factors, slices.Concat(params.Warnings, words.Warnings)
	g.tensors, err = ggufTensors(ix, p, table, params.HeadDim)
	return err
}

// stamp says how the tensors are kept, in place of what the source said.
func (g *ggufModel) stamp(scheme string) {
	most, bytes := dtype.F32, map[dtype.Type]int64{}
	quantized := false
	for _, t := range g.tensors {
		n, err := dtype.Elements(t.Shape)
		if err != nil || len(t.Shape) < 2 {
			continue
		}
		bytes[t.DType] += n
		quantized = quantized || t.DType.Quantized()
		if bytes[t.DType] > bytes[most] {
			most = t.DType
		}
	}
	fileType, known := recipeTypes[scheme]
	if !known {
		fileType, known = fileTypes[most]
	}
	g.entries = slices.DeleteFunc(g.entries, func(e gguf.Entry) bool {
		return e.Key == fileTypeKey || e.Key == quantVersionKey
	})
	at := 1 + slices.IndexFunc(g.entries, func(e gguf.Entry) bool { return e.Key == architectureKey })
	if known {
		g.entries = slices.Insert(g.entries, at, gguf.NewEntry(fileTypeKey, fileType))
	}
	if quantized {
		g.entries = slices.Insert(g.entries, at, gguf.NewEntry(quantVersionKey, uint32(quantVersion)))
	}
}

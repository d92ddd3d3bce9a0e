package onnx

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strconv"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Limits on what a model may claim, all ours and far above any real model.
const (
	MaxTensors    = 1 << 18
	MaxMetadata   = 1 << 12 // things that a model says about itself
	MaxExternal   = 1 << 12 // files
	MaxDimensions = 64
	MaxDepth      = 16      // of graphs inside graphs
	MaxTextBytes  = 4 << 10 // of a name
	MaxValueBytes = 16 << 20
	MaxFields     = 1 << 25 // of all messages, tensors' values not counted
)

// Where a tensor's bytes may lie besides Header.External.
const (
	InModel  = -1 // in the model's own file
	InValues = -2 // among what Values decodes
)

// Tensor is one tensor of a model; values of 4 and 2 bits are packed from the
// lowest bits on. File is an index into Header.External, InModel or InValues.
type Tensor = header.Tensor

// Header is what a model says about itself, checked.
type Header struct {
	IRVersion int64
	Tensors   []Tensor // in the file's order; no name twice
	// External are the files of external data as the model names them:
	// slash-separated paths below its folder, cleaned.
	External  []string
	Quantized bool // some node computes with quantized weights
	Metadata  []KV // in the file's order

	coded  []coded // what Values decodes
	values int64   // bytes of that
}

// KV is one thing that a model says about itself.
type KV struct{ Key, Value string }

// Read reads and checks the header of an open file. It does not open external
// files: the caller checks their sizes.
// Errors: invalid_checkpoint, unsupported (over our limits, sparse tensors,
// texts), and the source's.
func Read(ctx context.Context, r source.Reader) (*Header, error) {
	h, err := Parse(source.ReaderAt(ctx, r), r.File().Size)
	return h, header.InFile(err, r.File().Name)
}

// parser reads one model.
type parser struct {
	window
	h         *Header
	budget    header.Budget
	tensors   header.List
	graphOf   []int32          // the number of each tensor's graph
	dims      []int64          // backs the shapes
	external  map[string]int32 // index of a file in h.External
	words     map[string]string
	graphs    int32 // seen so far
	depth     int
	fields    int
	operands  []uint64             // hashes of the second operands of matrix products
	outputOf  [MaxDepth + 1][]byte // see node.output; by depth
	passed    int64                // bytes of tensors' values
	seenModel bool

	// What ReadGraph wants besides.
	whole           bool // it does
	inputs, outputs []Value
	places          []place  // of h.Tensors
	settings        []string // outputs of Constants whose values are no tensors
	inFunction      bool
	nbits           bool // a node is MatMulNBits
}

// Fields of ModelProto.
const (
	modelIRVersion       field = 1
	modelProducer        field = 2
	modelProducerVersion field = 3
	modelDomain          field = 4
	modelVersion         field = 5
	modelGraph           field = 7
	modelOpsets          field = 8
	modelMetadata        field = 14
	modelFunctions       field = 25
)

// Parse reads and checks the header of a file of the given size in bytes.
// Errors: invalid_checkpoint, unsupported, and those of r.
func Parse(r io.ReaderAt, size int64) (*Header, error) {
	p := newParser(r, size)
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.h, nil
}

func newParser(r io.ReaderAt, size int64) *parser {
	return &parser{window: window{r: r, size: size}, h: &Header{}, external: map[string]int32{}, words: map[string]string{}, graphs: 1}
}

// parse reads the model.
func (p *parser) parse() error {
	if err := p.message(p.size, p.model); err != nil {
		return err
	}
	if !p.seenModel || p.h.IRVersion <= 0 {
		return recovery.Errorf(recovery.InvalidCheckpoint, "it has no graph or no IR version: truncated, or no ONNX model")
	}
	p.h.Tensors = p.tensors.Tensors()
	return p.names()
}

func (p *parser) model(v value) error {
	switch v.field {
	case modelIRVersion:
		p.h.IRVersion = int64(v.num)
		return p.saysNumber("ir_version", v)
	case modelProducer:
		return p.says("producer_name", v)
	case modelProducerVersion:
		return p.says("producer_version", v)
	case modelDomain:
		return p.says("domain", v)
	case modelVersion:
		return p.saysNumber("model_version", v)
	case modelGraph:
		if !v.bytes() {
			return nil
		}
		p.seenModel = true
		return p.graph(v.stop, 0)
	case modelOpsets:
		return p.opset(v)
	case modelMetadata:
		kv, err := p.entry(v)
		if err != nil || kv.Key == "" {
			return err
		}
		return p.note(kv.Key, kv.Value)
	case modelFunctions:
		if v.bytes() {
			return p.function(v.stop)
		}
	}
	return nil
}

// says notes a text that the model has about itself.
func (p *parser) says(key string, v value) error {
	if !v.bytes() {
		return nil
	}
	s, err := p.text(v.stop)
	if err != nil || s == "" {
		return err
	}
	return p.note(key, s)
}

func (p *parser) saysNumber(key string, v value) error {
	if !v.number() || v.num == 0 {
		return nil
	}
	return p.note(key, strconv.FormatInt(int64(v.num), 10))
}

// note adds to the metadata.
func (p *parser) note(key, value string) error {
	if len(p.h.Metadata) == MaxMetadata {
		return recovery.Errorf(recovery.Unsupported, "more than %d entries of metadata", MaxMetadata)
	}
	p.h.Metadata = append(p.h.Metadata, KV{key, value})
	return p.budget.Entry()
}

// opset reads an OperatorSetIdProto.
func (p *parser) opset(v value) error {
	if !v.bytes() {
		return nil
	}
	domain, version := "", int64(0)
	err := p.message(v.stop, func(v value) (err error) {
		switch {
		case v.field == 1 && v.bytes():
			domain, err = p.text(v.stop)
		case v.field == 2 && v.number():
			version = int64(v.num)
		}
		return err
	})
	if domain == "" {
		domain = "ai.onnx"
	}
	if err != nil {
		return err
	}
	return p.note("opset."+domain, strconv.FormatInt(version, 10))
}

// entry reads a StringStringEntryProto. A text that is too long to be shown is
// told by its length.
func (p *parser) entry(v value) (kv KV, err error) {
	if !v.bytes() {
		return kv, nil
	}
	err = p.message(v.stop, func(v value) (err error) {
		switch {
		case !v.bytes():
		case v.field == 1:
			kv.Key, err = p.word(v.stop)
		case v.field == 2 && v.stop-p.off > MaxTextBytes:
			kv.Value = "(" + strconv.FormatInt(v.stop-p.off, 10) + " bytes of text)"
		case v.field == 2 && kv.Key == "location": // many tensors name one file
			kv.Value, err = p.word(v.stop)
		case v.field == 2:
			kv.Value, err = p.text(v.stop)
		}
		return err
	})
	return kv, err
}

// names makes the tensors' names distinct and says which are transposed.
func (p *parser) names() error {
	ts := p.h.Tensors
	order := header.ByName(ts)
	slices.Sort(p.operands)
	renamed := false
	for len(order) > 0 {
		name, n := ts[order[0]].Name, 1
		for n < len(order) && ts[order[n]].Name == name {
			n++
		}
		slices.SortFunc(order[:n], func(a, b int32) int { return cmp.Compare(p.graphOf[a], p.graphOf[b]) })
		_, transposed := slices.BinarySearch(p.operands, xxh3.HashString(name))
		for i, at := range order[:n] {
			t := &ts[at]
			t.Transposed = transposed && len(t.Shape) == 2
			if i > 0 && p.graphOf[order[i-1]] == p.graphOf[at] {
				return header.BadTensor(name, "it is there twice")
			}
		}
		for _, at := range order[:n] {
			if graph := p.graphOf[at]; n > 1 && graph > 0 {
				ts[at].Name, renamed = "graph"+strconv.Itoa(int(graph))+"/"+name, true
			}
		}
		order = order[n:]
	}
	if renamed {
		if name, ok := header.Twice(ts); ok {
			return header.BadTensor(name, "it is there twice, once as what a tensor inside a node is called")
		}
	}
	return nil
}

func unsupportedTensor(name, format string, args ...any) error {
	e := recovery.Errorf(recovery.Unsupported, format, args...)
	e.Tensor = name
	return e
}

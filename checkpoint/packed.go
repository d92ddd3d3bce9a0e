package checkpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// packer finds the weights that a quantizer stored in several tensors. Large
// models have 100,000 of them: what is alike is looked up, not made again.
type packer struct {
	ctx    context.Context
	src    source.Source
	ix     *Index
	config quantizationConfig
	byName []int32 // of ix.Tensors
	kinds  map[kind][]int64
	names  formNames
	small  smallTensors
	state  quantState // at hand

	groups  []configGroup // by name; nil until needed, as targets
	targets *targets
	fit     []int // of groups, at hand
}

// kind is what the sizes of a weight's parts depend on.
type kind struct {
	form       string
	stored     dtype.Type
	rows, cols int64
}

// maxKinds bounds the kinds of weights in a checkpoint; models have some ten.
const maxKinds = 1024

// formNames are the names of forms that there were.
type formNames struct {
	scaled  map[form.Scaled]string
	words   map[form.Words]string
	columns map[form.Columns]string
	gemv    map[form.Gemv]string
	bnb4    map[form.BNB4]string // of those without an offset
}

// formName returns a form's name.
func formName[F interface {
	comparable
	Name() string
}](names map[F]string, f F) string {
	name, ok := names[f]
	if !ok {
		name = f.Name()
		names[f] = name
	}
	return name
}

// packers recognise a weight by the tensor that holds most of it, by
// config.json's quant_method and that tensor's ending. They return what they
// take it for, which pack checks against the sizes of what is stored.
var packers = map[string][]struct {
	ending string
	of     func(p *packer, base string, weight *Tensor) (Packed, error)
}{
	"compressed-tensors": {{".weight_packed", (*packer).compressed}, {".weight", (*packer).scaled}},
	"gptq":               {{".qweight", (*packer).columns}},
	"awq":                {{".qweight", (*packer).awq}},
	"bitsandbytes":       {{".weight", (*packer).bitsandbytes}},
	"fp8":                {{".weight", (*packer).blocks}},
	"fbgemm_fp8":         {{".weight", (*packer).scaled}},
	"modelopt":           {{".weight", (*packer).modelopt}},
	"mxfp4":              {{"_blocks", (*packer).microscaling}},
}

// pack lists the packed weights of a Hugging Face folder. What does not fit
// together as its config.json says stays what it is: tensors of their own.
func pack(ctx context.Context, src source.Source, ix *Index) error {
	var c aboutConfig
	if json.Unmarshal(ix.Config, &c) != nil || c.Quantization == nil {
		return nil // no folder, or of none of these
	}
	p := &packer{ctx: ctx, src: src, ix: ix, config: *c.Quantization, byName: header.ByName(ix.Tensors), kinds: map[kind][]int64{},
		names: formNames{map[form.Scaled]string{}, map[form.Words]string{}, map[form.Columns]string{}, map[form.Gemv]string{}, map[form.BNB4]string{}}}
	err := p.weights()
	return cmp.Or(err, p.small.close())
}

// weights lists the packed weights.
func (p *packer) weights() error {
	known := packers[p.config.Method]
	room := 0
	for i := range p.ix.Tensors {
		for _, k := range known {
			if strings.HasSuffix(p.ix.Tensors[i].Name, k.ending) {
				room++
				break
			}
		}
	}
	p.ix.Packed = make([]Packed, 0, room)
	for i := range p.ix.Tensors {
		t := &p.ix.Tensors[i]
		for _, k := range known {
			base, ok := strings.CutSuffix(t.Name, k.ending)
			if !ok {
				continue
			}
			t.Codes = p.codes(t)
			w, err := k.of(p, base, t)
			if err != nil {
				return err
			}
			fits := false
			if w.Form != "" {
				if fits, err = p.fits(&w); err != nil {
					return err
				}
			}
			if fits {
				p.ix.Packed = append(p.ix.Packed, w)
			}
			break
		}
	}
	return nil
}

// codes says whether a weight's elements are floats only by their type: where
// bitsandbytes stores packed levels under one (bnb_4bit_quant_storage).
func (p *packer) codes(t *Tensor) bool {
	return p.config.Method == "bitsandbytes" && t.DType.Float() &&
		slices.ContainsFunc(fourBitStates, func(state string) bool { return p.find(t.Name, state) >= 0 })
}

// fits checks a weight against what is stored.
func (p *packer) fits(w *Packed) (bool, error) {
	if slices.Contains(w.Parts, -1) || len(w.Shape) < 2 || slices.ContainsFunc(w.Shape, func(d int64) bool { return d < 1 }) {
		return false, nil
	}
	if _, err := dtype.Elements(w.Shape); err != nil {
		return false, nil
	}
	rows, cols := w.Matrix()
	k := kind{form.Sizing(w.Form), p.ix.Tensors[w.Parts[0]].DType, rows, cols}
	sizes, ok := p.kinds[k]
	if !ok {
		if len(p.kinds) == maxKinds {
			return false, recovery.Errorf(recovery.Unsupported, "more than %d kinds of quantized weights, by form and shape", maxKinds)
		}
		if f, err := form.Open(k.form, k.stored, rows, cols); err == nil {
			for _, part := range f.Parts() {
				sizes = append(sizes, part.Bytes())
			}
		}
		p.kinds[k] = sizes
	}
	return slices.EqualFunc(sizes, w.Parts, func(size int64, i int) bool { return p.ix.Tensors[i].Bytes == size }), nil
}

// find returns the number of the tensor whose name is base and ending, -1 where
// there is none.
func (p *packer) find(base, ending string) int {
	at, ok := slices.BinarySearchFunc(p.byName, base, func(i int32, base string) int {
		name := p.ix.Tensors[i].Name
		n := min(len(name), len(base))
		return cmp.Or(strings.Compare(name[:n], base[:n]), cmp.Compare(n, len(base)), strings.Compare(name[n:], ending))
	})
	if !ok {
		return -1
	}
	return int(p.byName[at])
}

// tensor returns a tensor, nil where there is none.
func (p *packer) tensor(base, ending string) *Tensor {
	if i := p.find(base, ending); i >= 0 {
		return &p.ix.Tensors[i]
	}
	return nil
}

// beside returns the tensors with the given endings that are there.
func (p *packer) beside(base string, endings ...string) (list []int) {
	for _, e := range endings {
		if i := p.find(base, e); i >= 0 {
			list = append(list, i)
		}
	}
	return list
}

// read returns the bytes of a small tensor, valid until the next call: nil
// where there is none, or one that is too large to be what it should.
func (p *packer) read(base, ending string) ([]byte, error) {
	t := p.tensor(base, ending)
	if t == nil || t.Bytes > int64(len(p.small.buf)) {
		return nil, nil
	}
	return p.small.read(p.ctx, p.src, p.ix.Files[t.File].Name, t.Offset, t.Bytes)
}

// smallTensors reads tensors that say what others are. The zero value is ready.
type smallTensors struct {
	name string
	r    source.Reader // of the last file, which most of them are in
	buf  [512]byte
}

func (s *smallTensors) read(ctx context.Context, src source.Source, name string, offset, n int64) (b []byte, err error) {
	if s.r == nil || s.name != name {
		if err := s.close(); err != nil {
			return nil, err
		}
		if s.r, err = src.Open(ctx, name); err != nil {
			return nil, err
		}
		s.name = name
	}
	return s.buf[:n], s.r.ReadAt(ctx, s.buf[:n], offset)
}

func (s *smallTensors) close() error {
	if s.r == nil {
		return nil
	}
	r := s.r
	s.r = nil
	return r.Close()
}

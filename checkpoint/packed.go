package checkpoint

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/source"
)

// packer finds the weights that a quantizer stored in several tensors.
type packer struct {
	ctx    context.Context
	src    source.Source
	ix     *Index
	config quantizationConfig
	byName map[string]int
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
	"awq":                {{".qweight", (*packer).columns}},
	"bitsandbytes":       {{".weight", (*packer).bitsandbytes}},
	"fp8":                {{".weight", (*packer).blocks}},
	"mxfp4":              {{"_blocks", (*packer).microscaling}},
}

// pack lists the packed weights of a Hugging Face folder. What does not fit
// together as its config.json says stays what it is: tensors of their own.
func pack(ctx context.Context, src source.Source, ix *Index) error {
	var c aboutConfig
	if json.Unmarshal(ix.Config, &c) != nil || c.Quantization == nil {
		return nil // no folder, or of none of these
	}
	p := &packer{ctx: ctx, src: src, ix: ix, config: *c.Quantization, byName: make(map[string]int, len(ix.Tensors))}
	for i := range ix.Tensors {
		p.byName[ix.Tensors[i].Name] = i
	}
	for i := range ix.Tensors {
		t := &ix.Tensors[i]
		for _, known := range packers[p.config.Method] {
			base, ok := strings.CutSuffix(t.Name, known.ending)
			if !ok {
				continue
			}
			w, err := known.of(p, base, t)
			if err != nil {
				return err
			}
			if w.Form != "" && p.fits(&w) {
				ix.Packed = append(ix.Packed, w)
			}
			break
		}
	}
	return nil
}

// fits checks a weight against what is stored.
func (p *packer) fits(w *Packed) bool {
	if slices.Contains(w.Parts, -1) || len(w.Shape) < 2 || slices.ContainsFunc(w.Shape, func(d int64) bool { return d < 1 }) {
		return false
	}
	if _, err := dtype.Elements(w.Shape); err != nil {
		return false
	}
	rows, cols := w.Matrix()
	f, err := form.Open(w.Form, p.ix.Tensors[w.Parts[0]].DType, rows, cols)
	if err != nil {
		return false
	}
	parts := f.Parts()
	if len(parts) != len(w.Parts) {
		return false
	}
	for i, part := range parts {
		if p.ix.Tensors[w.Parts[i]].Bytes != part.Bytes() {
			return false
		}
	}
	return true
}

// find returns a tensor's number, -1 where there is none.
func (p *packer) find(name string) int {
	if i, ok := p.byName[name]; ok {
		return i
	}
	return -1
}

// tensor returns a tensor, nil where there is none.
func (p *packer) tensor(name string) *Tensor {
	if i := p.find(name); i >= 0 {
		return &p.ix.Tensors[i]
	}
	return nil
}

// beside returns the tensors with the given endings that are there.
func (p *packer) beside(base string, endings ...string) (list []int) {
	for _, e := range endings {
		if i := p.find(base + e); i >= 0 {
			list = append(list, i)
		}
	}
	return list
}

// maxSmallBytes bounds a tensor that says what another is.
const maxSmallBytes = 64 << 10

// read returns a small tensor's bytes, nil where there is none, or one that is
// too large to be what it should.
func (p *packer) read(name string) ([]byte, error) {
	t := p.tensor(name)
	if t == nil || t.Bytes > maxSmallBytes {
		return nil, nil
	}
	r, err := p.src.Open(p.ctx, p.ix.Files[t.File].Name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, t.Bytes)
	if err := r.ReadAt(p.ctx, b, t.Offset); err != nil {
		_ = r.Close() // it was only read
		return nil, err
	}
	return b, r.Close()
}

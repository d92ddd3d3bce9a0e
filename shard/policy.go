package shard

import (
	"errors"
	"fmt"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/recovery"
)

// policy decides what each tensor becomes. It looks at the tensor, its name
// and place in the model, and the options, never at the layout.
type policy struct {
	scheme    quant.Scheme // the job's; nil with a recipe
	recipe    *quant.Recipe
	target    quant.Target // of scheme
	overrides []override
	seats     seats
	keep      bool  // the originals too
	maxRow    int64 // stored bytes of the longest row that is transformed as a whole
	none      quant.Scheme
	f16, f32  quant.Scheme // what a scheme for matrices leaves
}

func newPolicy(o Options) (*policy, error) {
	p := &policy{maxRow: o.ChunkBytes, keep: o.KeepOriginal}
	for _, d := range []struct {
		name string
		to   *quant.Scheme
	}{{"none", &p.none}, {"f16", &p.f16}, {"f32", &p.f32}} {
		s, err := quant.Parse(d.name)
		if err != nil {
			return nil, err
		}
		*d.to = s
	}
	if r, ok := quant.ParseRecipe(o.Scheme); ok {
		p.recipe = &r
	} else {
		s, err := quant.Parse(o.Scheme)
		if err != nil {
			return nil, err
		}
		p.scheme, p.target = s, s.Target()
	}
	var err error
	p.overrides, err = compile(o.Overrides)
	return p, err
}

// apply sets what tensor i of the plan becomes, and why. The fallback is ""
// unless the tensor was meant to get a scheme and could not: then it is the
// cause.
func (p *policy) apply(i int, t *Tensor, of *part) (fallback string, err error) {
	if of.kept {
		return "", p.keepStored(t)
	}
	if o := p.override(t.Name); o != nil {
		return p.force(t, o)
	}
	switch {
	case p.target == quant.Nothing && p.recipe == nil:
		t.Why = storedWhy
	case !numbers(t):
		t.Why = "no floats: as stored"
	case p.recipe != nil:
		return p.mix(t, p.seats.kind[i], p.seats.at[i])
	case p.target == quant.Linear && !(of.linear && len(t.Shape) == 2):
		t.Why = p.scheme.Name() + " is for weights of linear layers: as stored"
	case p.target == quant.Matrices && t.dims() < 2:
		t.Why = p.scheme.Name() + ": vectors become f32"
		return "", p.set(t, p.f32)
	default:
		t.Why = p.scheme.Name() + ": " + targets[p.target]
		fallback, err = p.become(t, p.scheme)
		return p.explain(t, fallback), err
	}
	return "", p.set(t, p.none)
}

// storedWhy is why a tensor stays as it is stored under none.
const storedWhy = "none: as stored"

// targets names what schemes are for.
var targets = map[quant.Target]string{quant.Floats: "floats", quant.Matrices: "matrix", quant.Linear: "weight of a linear layer"}

// become gives the tensor a scheme or, where it cannot take it, what the
// scheme leaves to such tensors, and says why: those for matrices make vectors
// F32 and matrices with other rows F16, the others keep what is stored.
func (p *policy) become(t *Tensor, s quant.Scheme) (cause string, err error) {
	dims, matrices := len(t.Shape), s.Target() == quant.Matrices
	if matrices {
		dims = t.dims()
	}
	switch {
	case s.Target() == quant.Nothing:
		return "", p.set(t, p.none)
	case !numbers(t):
		return fmt.Sprintf("its elements of type %s are no floats", t.DType), p.set(t, p.none)
	case s.Target() != quant.Floats && dims != 2:
		left := p.none
		if matrices && dims < 2 {
			left = p.f32
		}
		return fmt.Sprintf("%s takes matrices, this has %s", s.Name(), dimensions(dims)), p.set(t, left)
	case s.Target() != quant.Floats && t.Transposed:
		return sideways(t, s.Name()), p.set(t, p.none)
	}
	err = p.set(t, s)
	if err == nil {
		return "", nil
	}
	cause = causeOf(err)
	if matrices && p.set(t, p.f16) == nil {
		return cause, nil
	}
	return cause, p.set(t, p.none)
}

// dims returns how many dimensions a tensor has, of one expert: the rows of
// matrices that lie one after the other are rows as others are.
func (t *Tensor) dims() int {
	if t.Experts > 0 {
		return len(t.Shape) - 1
	}
	return len(t.Shape)
}

// sideways is why a tensor cannot become a scheme that scales rows, or divides
// them into blocks, and means those of [out, in].
func sideways(t *Tensor, scheme string) string {
	return fmt.Sprintf("it is stored [in, out], and %s works along the inputs of each output", scheme)
}

func dimensions(n int) string {
	if n == 1 {
		return "1 dimension"
	}
	return fmt.Sprintf("%d dimensions", n)
}

// explain adds to a tensor's reason that it fell back, and returns the cause.
func (p *policy) explain(t *Tensor, cause string) string {
	if cause != "" {
		t.Why += "; " + cause
	}
	return cause
}

// mix applies the recipe. As in ggml, leading dimensions of 1 do not count.
func (p *policy) mix(t *Tensor, kind quant.Kind, at int) (fallback string, err error) {
	dims := t.dims()
	for _, d := range t.Shape[len(t.Shape)-dims:] {
		if d != 1 {
			break
		}
		dims--
	}
	t.Why = p.recipe.Name() + ": "
	if dims < 2 || kind == quant.KindPlain {
		t.Why += "vectors, norms and routers become f32"
		return "", p.set(t, p.f32)
	}
	t.Why += kind.String()
	if kind == quant.KindValue || kind == quant.KindDown {
		t.Why += fmt.Sprintf(" %d", at+1)
	}
	if dims > 2 {
		return p.explain(t, fmt.Sprintf("it takes matrices, this has %s", dimensions(dims))), p.set(t, p.none)
	}
	if t.Transposed {
		return p.explain(t, sideways(t, p.recipe.Name())), p.set(t, p.none)
	}
	name, instead := p.recipe.Choose(kind, at, t.Cols, p.seats.model)
	s, err := quant.Parse(name)
	if err != nil {
		return "", err
	}
	if instead != "" {
		fallback = fmt.Sprintf("a row of %d elements does not divide into blocks of %s", t.Cols, instead)
	}
	return p.explain(t, fallback), p.set(t, s)
}

// numbers says whether a tensor has elements that schemes are for: floats, or
// blocks of what once were floats.
func numbers(t *Tensor) bool {
	return t.Rows > 0 && t.Cols > 0 && (quant.Decodes(t.DType) || t.packed() || t.Form == form.Float8)
}

// set gives the tensor a scheme, or says why that cannot be. Blocks of the type
// that the scheme writes stay as they are; values that must be worked out, and
// are to stay as they are stored, become F32.
func (p *policy) set(t *Tensor, s quant.Scheme) error {
	if b, ok := quant.BlockType(s); ok && b == t.DType {
		t.Why += "; it is stored so"
		s = p.none
	}
	if s.Target() == quant.Nothing && t.Form == form.Float8 {
		t.Form = "" // as they are they are plain rows
	}
	if s.Target() == quant.Nothing && t.packed() {
		t.Scheme = s.Name() // its parts are placed instead of it
		return nil
	}
	was := *t
	if err := t.derive(s); err != nil {
		return err
	}
	switch row := t.readRow(); {
	case t.Held() && t.stored() > MaxHeldBytes:
		size := t.stored()
		*t = was
		return fmt.Errorf("it is stored column by column, and must be held whole: it has %d bytes, at most %d are", size, int64(MaxHeldBytes))
	case wholeRow(t.Layout) && !t.Held() && row > p.maxRow:
		*t = was
		return fmt.Errorf("row longer than a chunk: %s needs whole rows, and one has %d bytes", s.Name(), row)
	case s.Target() == quant.Nothing && t.From != t.DType:
		t.Why += "; its values are worked out"
		return t.derive(p.f32)
	case p.keep && !t.packed() && t.From == t.DType && t.Layout.Planes[0].DType != t.DType:
		return t.derive(quant.WithOriginal(s))
	}
	return nil
}

// causeOf returns why a scheme refused, without what it was asked.
func causeOf(err error) string {
	if e := (*recovery.Error)(nil); errors.As(err, &e) && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// rowBytes returns the stored bytes of one row, which are whole.
func rowBytes(t *Tensor) int64 {
	elements, bytes := t.DType.Block()
	return t.Cols / elements * bytes
}

// wholeRow says that rows must not be encoded in parts.
func wholeRow(l quant.Layout) bool { return l.Scope != quant.Block }

// readAlign returns the number of columns between which a stored row can be
// cut so that each part can be read and encoded by itself.
func (t *Tensor) readAlign() int64 {
	elements, _ := t.DType.Block()
	a := cutAlign(t.Layout)
	return a / gcd(a, elements) * elements
}

// cutAlign returns the number of columns between which every plane of an
// encoded row can be cut.
func cutAlign(l quant.Layout) int64 {
	a := max(l.Align, 1)
	for _, p := range l.Planes {
		if p.Cols > 0 {
			a = a / gcd(a, p.Cols) * p.Cols
		}
	}
	return a
}

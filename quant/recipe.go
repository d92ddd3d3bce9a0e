package quant

import "slices"

// Kind is what a matrix does in a transformer, as far as recipes ask.
type Kind uint8

// The kinds. A router, and any tensor that is no weight, is KindPlain.
const (
	KindPlain     Kind = iota // is not quantized
	KindOther                 // a matrix that no recipe singles out
	KindEmbedding             // of tokens
	KindHead                  // the output, or an embedding that is tied to it
	KindQuery
	KindKey
	KindValue // also where it is fused with query and key, or made from what is cached
	KindAttnOut
	KindGate
	KindUp
	KindDown
)

var kindNames = [...]string{"not for quantization", "matrix", "embedding", "head", "query projection", "key projection",
	"value projection", "attention output", "gate projection", "up projection", "down projection"}

func (k Kind) String() string { return kindNames[k] }

// Stack is what a recipe asks of a model.
type Stack struct {
	Layers  int
	Values  int  // matrices of KindValue
	GQA     int  // query heads for each key-value head; 0 where unknown
	Experts int  // of a layer; 0 without
	Large   bool // Llama 2 or 3 with 70B parameters, Qwen2 with 72B: 80 layers of them
}

// Recipe is a mixture of ggml's types as llama.cpp's quantizer makes it:
// matrices on which much depends get more bits. Which type a tensor gets
// depends on its kind, its place and the model, never on values.
//
// The rules are those of src/llama-quant.cpp (llama_tensor_get_type_impl and
// tensor_type_fallback) as of 2026; without an importance matrix, which Gantry
// has none of, and without the exceptions for Falcon. shard's tests hold them
// against what libllama's quantizer writes. Names are ggml's in Gantry's
// spelling; q2_K_M is what llama-quantize calls Q2_K and describes as
// "Q2_K - Medium", since a type's name alone is that type for every matrix
// here. Q2_K_S is left out: llama.cpp does not make it without an importance
// matrix.
type Recipe struct {
	name string
	base string // what matrices become that are not singled out
	rule func(r Kind, i, n int, m Stack) string
}

var recipes = []Recipe{
	{"q2_K_M", "q2_K", func(r Kind, _, _ int, m Stack) string {
		switch {
		case r == KindValue && m.GQA >= 4:
			return "q4_K"
		case r == KindValue, r == KindDown, r == KindAttnOut:
			return "q3_K"
		}
		return ""
	}},
	{"q3_K_S", "q3_K", func(Kind, int, int, Stack) string { return "" }},
	{"q3_K_M", "q3_K", func(r Kind, i, n int, _ Stack) string {
		switch {
		case r == KindValue && i < 2, r == KindDown && i < n/16:
			return "q5_K"
		case r == KindValue, r == KindDown, r == KindAttnOut:
			return "q4_K"
		}
		return ""
	}},
	{"q3_K_L", "q3_K", func(r Kind, _, _ int, m Stack) string {
		if r == KindValue || r == KindDown || r == KindAttnOut && m.Experts != 8 {
			return "q5_K"
		}
		return ""
	}},
	{"q4_K_S", "q4_K", func(r Kind, i, n int, _ Stack) string {
		if r == KindValue && i < 4 || r == KindDown && i < n/8 {
			return "q5_K"
		}
		return ""
	}},
	{"q4_K_M", "q4_K", moreBits},
	{"q5_K_S", "q5_K", func(Kind, int, int, Stack) string { return "" }},
	{"q5_K_M", "q5_K", moreBits},
}

// moreBits gives the value and down projections of the first eighth of the
// layers, of the last, and of every third between them q6_K.
func moreBits(r Kind, i, n int, _ Stack) string {
	if (r == KindValue || r == KindDown) && (i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2) {
		return "q6_K"
	}
	return ""
}

// ParseRecipe returns the recipe of that name, and whether there is one.
func ParseRecipe(name string) (Recipe, bool) {
	i := slices.IndexFunc(recipes, func(r Recipe) bool { return r.name == name })
	if i < 0 {
		return Recipe{}, false
	}
	return recipes[i], true
}

// Recipes returns the recipes' names.
func Recipes() []string {
	names := make([]string, len(recipes))
	for i, r := range recipes {
		names[i] = r.name
	}
	return names
}

// Name returns the recipe's name.
func (r Recipe) Name() string { return r.name }

// Choose returns the scheme of a matrix with rows of cols elements. Where the
// rules chose a type with blocks that such a row does not divide into, it is
// another, and instead is the one that they chose. at counts the matrices of its kind before it in
// the order of layers; with experts it is the layer.
func (r Recipe) Choose(kind Kind, at int, cols int64, m Stack) (scheme, instead string) {
	if kind == KindPlain {
		return "f32", ""
	}
	scheme = r.mix(kind, at, m)
	if kind == KindHead && cols%superLen != 0 {
		scheme = "q8_0" // llama.cpp's choice for it, before it looks for a fallback
	}
	block := int64(superLen)
	if scheme == "q8_0" {
		block = blockLen
	}
	if cols%block == 0 {
		return scheme, ""
	}
	if cols%blockLen != 0 {
		return "f16", scheme
	}
	return narrower[scheme], scheme
}

// narrower are the types with blocks of 32 values that stand in for those
// with 256.
var narrower = map[string]string{"q2_K": "q4_0", "q3_K": "q4_0", "q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}

// mix is the type by the rules alone.
func (r Recipe) mix(kind Kind, at int, m Stack) string {
	n := m.Layers
	if kind == KindValue {
		n = m.Values
	}
	scheme := r.rule(kind, at, n, m)
	if scheme == "" {
		scheme = r.base
	}
	eight := m.Experts == 8 // the one count of experts that has rules: Mixtral's
	switch kind {
	case KindHead:
		return "q6_K"
	case KindValue:
		if m.Large && (scheme == "q3_K" || scheme == "q4_K") {
			scheme = "q5_K" // eight query heads share each value head: it is small
		}
		if eight {
			return "q8_0"
		}
	case KindKey:
		if eight {
			return "q8_0"
		}
	case KindAttnOut:
		if eight && (r.base == "q2_K" || r.base == "q4_K" || r.base == "q3_K" && r.name != "q3_K_L") {
			return "q5_K"
		}
	}
	return scheme
}

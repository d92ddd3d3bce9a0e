package checkpoint

import (
	"encoding/binary"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// words returns the shape of a weight of compressed-tensors that is packed into
// words, with so many groups in a row, and the bits of its integers. Where all
// weights are alike and rows have several groups, which are full then, those
// tell the shape, and spare a read of each weight; else the tensor beside it
// that says it. The shape is nil where nothing does.
func (p *packer) words(base string, t *Tensor, groups int64) (shape []int64, bits int64, err error) {
	words, bits := t.Shape[1], p.bits()
	group := p.ix.quantization(&p.config).Group
	if len(p.config.Groups) <= 1 && group > 0 && group <= maxDimension && groups > 1 && groups <= maxDimension && fillsWords(words, groups*group, bits) {
		return []int64{t.Shape[0], groups * group}, bits, nil
	}
	b, err := p.read(base, ".weight_shape")
	if err != nil || len(b) != 16 {
		return nil, 0, err
	}
	shape = []int64{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
	if len(p.config.Groups) > 1 {
		bits = p.bitsOf(base, words, shape[1], groups)
	}
	return shape, bits, nil
}

// fillsWords says whether a row of cols integers of so many bits takes so many
// words: tight across them, or as many in each as are whole.
func fillsWords(words, cols, bits int64) bool {
	return bits > 0 && bits <= 32 && cols > 0 && cols <= maxDimension && (words == (cols*bits+31)/32 || words == (cols+32/bits-1)/(32/bits))
}

// bitsOf returns the bits of a weight: those of the config group that its sizes
// allow, and where several differ of the one that has the module as a target. It
// is 0 where none fits.
func (p *packer) bitsOf(module string, words, cols, groups int64) int64 {
	var fit []string
	var bits []int64
	for _, name := range slices.Sorted(maps.Keys(p.config.Groups)) {
		w := p.config.Groups[name].Weights
		inRow := int64(1)
		if w.Group > 0 && cols > 0 {
			inRow = (cols-1)/w.Group + 1
		}
		if fillsWords(words, cols, w.Bits) && groups == inRow {
			fit, bits = append(fit, name), append(bits, w.Bits)
		}
	}
	switch {
	case len(fit) == 0:
		return 0
	case len(slices.Compact(slices.Clone(bits))) > 1:
		return bits[p.targeted(module, fit)]
	}
	return bits[0]
}

// targeted returns which of the groups has a module as a target, as
// compressed-tensors looks: by its name, then by patterns, which match from its
// beginning. Where that is left to the module's class it is the first.
func (p *packer) targeted(module string, groups []string) int {
	if p.targets == nil {
		p.targets = map[string]string{}
		for name, g := range p.config.Groups {
			for _, t := range g.Targets {
				p.targets[t] = name
			}
		}
	}
	if i := slices.Index(groups, p.targets[module]); i >= 0 {
		return i
	}
	return max(0, slices.IndexFunc(groups, func(name string) bool {
		return slices.ContainsFunc(p.config.Groups[name].Targets, func(target string) bool {
			pattern, ok := strings.CutPrefix(target, "re:")
			return ok && p.matches(pattern, module)
		})
	}))
}

// maxPatterns bounds the patterns of a config.json, models have a few, and
// maxPattern their length: they are tried for each weight.
const (
	maxPatterns = 32
	maxPattern  = 256
)

// matches says whether a pattern matches a name from its beginning. One that Go
// does not know, or that is too long, matches nothing.
func (p *packer) matches(pattern, name string) bool {
	re, ok := p.patterns[pattern]
	if !ok {
		if len(p.patterns) < maxPatterns && len(pattern) <= maxPattern {
			re, _ = regexp.Compile("^(?:" + pattern + ")") // nil: Python's patterns know more
		}
		p.patterns[pattern] = re
	}
	return re != nil && re.MatchString(name)
}

package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
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
// is 0 where none fits, or where that cannot be told.
func (p *packer) bitsOf(module string, words, cols, groups int64) int64 {
	if p.groups == nil {
		for _, name := range slices.Sorted(maps.Keys(p.config.Groups)) {
			p.groups = append(p.groups, p.config.Groups[name])
		}
	}
	fit, bits := p.fit[:0], int64(0)
	differ := false
	for i, g := range p.groups {
		inRow := int64(1)
		if g.Weights.Group > 0 && cols > 0 {
			inRow = (cols-1)/g.Weights.Group + 1
		}
		if !fillsWords(words, cols, g.Weights.Bits) || groups != inRow {
			continue
		}
		if len(fit) == 0 {
			bits = g.Weights.Bits
		}
		fit, differ = append(fit, i), differ || g.Weights.Bits != bits
	}
	p.fit = fit
	if !differ {
		return bits
	}
	if p.targets == nil {
		p.targets = newTargets(p.groups)
	}
	if i := p.targets.of(module, fit); i >= 0 {
		return p.groups[i].Weights.Bits
	}
	return 0
}

// targets finds the config group of a module as compressed-tensors does: by its
// name, then by patterns, which match from its beginning, else by its class,
// which nothing here tells and the first group that has one is taken for.
type targets struct {
	names    map[string]int // group, by target
	patterns []targetPattern
	class    []bool // by group: whether a target is neither
	work     int    // what may still be spent on patterns
}

type targetPattern struct {
	group  int
	re     *regexp.Regexp
	length int
}

// Bounds of what is made of a config.json, and of the work of patterns: bytes of
// pattern times bytes of name. Models have a few patterns, or each module's name.
const (
	maxTargets   = 1 << 16
	maxPatterns  = 32
	patternBytes = 256
	patternWork  = 1 << 28
)

func newTargets(groups []configGroup) *targets {
	t := &targets{names: map[string]int{}, class: make([]bool, len(groups)), work: patternWork}
	for i, g := range groups {
		var list []string
		if bytes.Count(g.Targets, []byte{'"'}) > 2*(maxTargets-len(t.names)) || json.Unmarshal(g.Targets, &list) != nil {
			continue
		}
		for _, target := range list {
			text, pattern := strings.CutPrefix(target, "re:")
			if !pattern {
				t.class[i] = t.class[i] || !strings.Contains(target, ".")
				if _, taken := t.names[target]; !taken {
					t.names[target] = i
				}
				continue
			}
			// A count in braces would make a short pattern a long program.
			if len(t.patterns) < maxPatterns && len(text) <= patternBytes && !strings.Contains(text, "{") {
				if re, err := regexp.Compile("^(?:" + text + ")"); err == nil { // Python's know more
					t.patterns = append(t.patterns, targetPattern{i, re, len(text)})
				}
			}
		}
	}
	return t
}

// of returns which of some groups has a module as a target, -1 where none has,
// or it would take too long to tell.
func (t *targets) of(module string, groups []int) int {
	if i, ok := t.names[module]; ok && slices.Contains(groups, i) {
		return i
	}
	for _, p := range t.patterns {
		if !slices.Contains(groups, p.group) {
			continue
		}
		if t.work -= (p.length + 1) * len(module); t.work < 0 {
			return -1
		}
		if p.re.MatchString(module) {
			return p.group
		}
	}
	for _, i := range groups {
		if t.class[i] {
			return i
		}
	}
	return -1
}

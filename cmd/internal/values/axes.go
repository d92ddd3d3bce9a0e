package values

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/model/session"
)

// axes are the sizes of free axes that a user gave.
type axes struct {
	sizes map[string]int64
	used  map[string]bool
}

func parseAxes(dims []string) (*axes, error) {
	a := &axes{map[string]int64{}, map[string]bool{}}
	for _, s := range dims {
		i := strings.LastIndexByte(s, '=')
		n, err := strconv.ParseInt(s[i+1:], 10, 64)
		if i <= 0 || err != nil || n < 0 {
			return nil, usagef("--dim %s: want AXIS=N, such as batch=1", s)
		}
		a.sizes[s[:i]] = n
	}
	return a, nil
}

// shape returns the shape of an input whose values do not tell it.
func (a *axes) shape(v onnx.Value) ([]int64, error) {
	if !v.Ranked {
		return nil, usagef("--input %s: the graph does not say its shape: give a .npy file or nested values", v.Name)
	}
	shape := []int64{}
	for i, d := range v.Shape {
		if d.Size >= 0 {
			shape = append(shape, d.Size)
			continue
		}
		byIndex := fmt.Sprintf("%s:%d", v.Name, i)
		key := byIndex
		if _, ok := a.sizes[key]; !ok && d.Name != "" {
			key = d.Name
		}
		n, ok := a.sizes[key]
		if !ok {
			return nil, usagef("--input %s: the size of axis %d of %s is free: say --dim %s=N", v.Name, i, session.Describe(v), key)
		}
		a.used[key] = true
		shape = append(shape, n)
	}
	return shape, nil
}

// unused reports sizes that no axis has.
func (a *axes) unused(g *onnx.Graph) error {
	for _, name := range slices.Sorted(maps.Keys(a.sizes)) {
		if a.used[name] || hasAxis(g, name) {
			continue
		}
		return usagef("--dim %s: no input has such a free axis", name)
	}
	return nil
}

func hasAxis(g *onnx.Graph, name string) bool {
	for _, v := range g.Inputs {
		for i, d := range v.Shape {
			if d.Size < 0 && (d.Name == name || fmt.Sprintf("%s:%d", v.Name, i) == name) {
				return true
			}
		}
	}
	return false
}

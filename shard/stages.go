package shard

import (
	"slices"
	"sort"
	"strings"
)

// stages is the division of a model's layers over the pp ranks.
type stages struct {
	count int
	first map[int]int // layer number → stage
}

// planStages divides the layers into runs, one for each stage, so that the
// largest stage is as small as can be. weight is what each layer places, in
// bytes; the first and last stage hold before and after besides.
func planStages(pp int, weight map[int]int64, stacks []string, before, after int64) (stages, error) {
	s := stages{count: pp, first: map[int]int{}}
	layers := make([]int, 0, len(weight))
	for l := range weight {
		layers = append(layers, l)
	}
	slices.Sort(layers)
	if pp == 1 {
		for _, l := range layers {
			s.first[l] = 0
		}
		return s, nil
	}
	if len(stacks) > 1 {
		return s, usage("", "use pp 1", "pp %d needs one stack of layers, the checkpoint has %d: %s",
			pp, len(stacks), strings.Join(stacks, ", "))
	}
	if pp > len(layers) {
		return s, usage("", "use a pp of at most that", "pp %d needs as many layers, the checkpoint has %d", pp, len(layers))
	}
	load := make([]int64, len(layers))
	total := before + after
	for i, l := range layers {
		load[i] = weight[l]
		total += load[i]
	}
	load[0] += before
	load[len(load)-1] += after
	// The smallest capacity that pp stages can do with, found by halving.
	most := sort.Search(int(total), func(c int) bool { return fill(load, pp, int64(c)) != nil })
	for stage, stop := range fill(load, pp, int64(most)) {
		for len(s.first) < stop {
			s.first[layers[len(s.first)]] = stage
		}
	}
	return s, nil
}

// fill gives each of pp stages as many layers as its capacity takes, at least
// one, and returns where each stage stops; nil where they do not all fit.
func fill(load []int64, pp int, capacity int64) []int {
	stops, next := make([]int, 0, pp), 0
	for stage := range pp {
		left := pp - stage - 1 // stages to come, each needs a layer
		var sum int64
		begin := next
		for next < len(load)-left && sum+load[next] <= capacity {
			sum += load[next]
			next++
		}
		if next == begin {
			return nil
		}
		stops = append(stops, next)
	}
	if next < len(load) {
		return nil
	}
	return stops
}

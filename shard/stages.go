package shard

import (
	"fmt"
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
		return s, usage("", fmt.Sprintf("pp %d would", max(len(layers), 1)), "%d layers do not divide over pp %d", len(layers), pp)
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

// stage divides the layers over the pipeline.
func (b *builder) stage() (err error) {
	var before, after int64
	weight, stacks := map[int]int64{}, []string{}
	for i, p := range b.parts {
		size := b.plan.Tensors[i].Placed()
		switch p.at {
		case embedding:
			before += size
			if b.tied && p.isVocab(embedding) {
				after += size
			}
		case inLayer:
			weight[p.layer] += size
			if !slices.Contains(stacks, p.stack) {
				stacks = append(stacks, p.stack)
			}
		case finalNorm, head:
			after += size
			if b.tied && p.isVocab(head) {
				before += size
			}
		}
	}
	b.stages, err = planStages(b.plan.Options.Layout.PP, weight, stacks, before, after)
	return err
}

// on says whether a stage holds a tensor. What nobody knows the place of is
// held by all.
func (b *builder) on(p *part, stage int) bool {
	last := stage == b.stages.count-1
	switch p.at {
	case embedding:
		return stage == 0 || b.tied && last && p.isVocab(embedding)
	case inLayer:
		return stage == b.stages.first[p.layer]
	case finalNorm:
		return last
	case head:
		return last || b.tied && stage == 0 && p.isVocab(head)
	}
	return true
}

package header

import (
	"cmp"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// Twice returns a name that more than one of the tensors has. Hashes are sorted
// many times faster than names, and hardly any checkpoint has a name twice.
func Twice(tensors []Tensor) (string, bool) {
	hashes := make([]uint64, len(tensors))
	for i := range tensors {
		hashes[i] = xxh3.HashString(tensors[i].Name)
	}
	slices.Sort(hashes)
	if len(slices.Compact(hashes)) == len(tensors) {
		return "", false
	}
	order := ByName(tensors)
	for i := 1; i < len(order); i++ {
		if name := tensors[order[i]].Name; name == tensors[order[i-1]].Name {
			return name, true
		}
	}
	return "", false
}

// ByName returns the tensors' numbers in the order of their names; of tensors
// of one name the first comes first.
func ByName(tensors []Tensor) []int32 {
	order := make([]int32, len(tensors))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(strings.Compare(tensors[a].Name, tensors[b].Name), cmp.Compare(a, b))
	})
	return order
}

package safetensors

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// ShardIndex is what a model.safetensors.index.json says.
type ShardIndex struct {
	// Shards are names of files, in order, as source.NameInside has them where
	// they are any; data: the caller checks them before it opens any.
	Shards  []string
	Tensors []Indexed // by name; no name twice
}

// Indexed is a tensor of an index.
type Indexed struct {
	Name  string
	Shard int32 // index into ShardIndex.Shards
}

// ParseShardIndex reads a model.safetensors.index.json. Other fields, such as
// metadata, are checked for form only. The text's bytes are ParseShardIndex's:
// escapes are decoded in place.
// Errors: invalid_checkpoint, unsupported (over our limits).
func ParseShardIndex(text []byte) (*ShardIndex, error) {
	if !utf8.Valid(text) {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the index is not valid UTF-8")
	}
	s := scanner{b: text}
	var ix *ShardIndex
	err := s.object(func(key []byte) error {
		if string(key) != "weight_map" {
			return s.skip(1)
		}
		if ix != nil {
			return s.fail("weight_map is there twice")
		}
		ix = &ShardIndex{}
		return s.weightMap(ix)
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	if ix == nil || len(ix.Tensors) == 0 {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the index has no weight_map, or an empty one")
	}
	return ix, ix.sort()
}

// Distinct names take 10 bytes of an index or more, but for a few.
const (
	minIndexed = 10
	fewIndexed = 1 << 12
)

func (s *scanner) weightMap(ix *ShardIndex) error {
	room := min(bytes.Count(s.b, []byte{':'}), len(s.b)/minIndexed+fewIndexed, MaxIndexed)
	ix.Tensors = make([]Indexed, 0, room)
	numbers := map[string]int32{} // of shards, by name and as they are written
	return s.object(func(key []byte) error {
		switch {
		case len(ix.Tensors) == MaxIndexed:
			return recovery.Errorf(recovery.Unsupported, "more than %d tensors in one index", MaxIndexed)
		case len(ix.Tensors) == room:
			return s.fail("more tensors in weight_map than there are names so short: some is there twice")
		}
		value, err := s.str()
		if err != nil {
			return err
		}
		shard, ok := numbers[string(value)]
		if !ok {
			if len(numbers) >= 2*MaxShards || len(ix.Shards) == MaxShards {
				return recovery.Errorf(recovery.Unsupported, "more than %d shards in one index", MaxShards)
			}
			shard = ix.shard(string(value), numbers)
		}
		ix.Tensors = append(ix.Tensors, Indexed{string(key), shard})
		return nil
	})
}

// shard returns the number of a shard that was not yet written so.
func (ix *ShardIndex) shard(value string, numbers map[string]int32) int32 {
	name := value
	if inside, ok := source.NameInside(value); ok {
		name = inside
	}
	n, ok := numbers[name]
	if !ok {
		n = int32(len(ix.Shards))
		ix.Shards = append(ix.Shards, name)
		numbers[name] = n
	}
	numbers[value] = n
	return n
}

// sort brings shards and tensors into order and refuses a tensor that is there
// twice.
func (ix *ShardIndex) sort() error {
	order := make([]int32, len(ix.Shards)) // numbers in the file
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(ix.Shards[a], ix.Shards[b]) })
	slices.Sort(ix.Shards)
	now := make([]int32, len(order))
	for i, was := range order {
		now[was] = int32(i)
	}
	for i := range ix.Tensors {
		ix.Tensors[i].Shard = now[ix.Tensors[i].Shard]
	}
	slices.SortFunc(ix.Tensors, func(a, b Indexed) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(ix.Tensors); i++ {
		if name := ix.Tensors[i].Name; name == ix.Tensors[i-1].Name {
			return recovery.Errorf(recovery.InvalidCheckpoint, "tensor %.80q is in weight_map twice", name)
		}
	}
	return nil
}

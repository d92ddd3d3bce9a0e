package safetensors

import (
	"unicode/utf8"

	"github.com/gantry-ml/gantry/recovery"
)

// ParseShardIndex reads a model.safetensors.index.json and returns which shard
// holds each tensor. Other fields, such as metadata, are checked for form
// only. The names of shards are data: the caller checks them before it opens
// anything. Errors: invalid_checkpoint, unsupported (over our limits).
func ParseShardIndex(data []byte) (map[string]string, error) {
	if !utf8.Valid(data) {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the index is not valid UTF-8")
	}
	s := scanner{b: data}
	var shards map[string]string
	err := s.object(func(key []byte) error {
		if string(key) != "weight_map" {
			return s.skip(1)
		}
		if shards != nil {
			return s.fail("weight_map is there twice")
		}
		var err error
		shards, err = s.weightMap()
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	if len(shards) == 0 {
		return nil, recovery.Errorf(recovery.InvalidCheckpoint, "the index has no weight_map, or an empty one")
	}
	return shards, nil
}

func (s *scanner) weightMap() (map[string]string, error) {
	shards := map[string]string{}
	known := map[string]string{} // each shard's name once, not once per tensor
	err := s.object(func(key []byte) error {
		name := string(key)
		if _, twice := shards[name]; twice {
			return s.fail("tensor %q is in weight_map twice", name)
		}
		if len(shards) == MaxIndexed {
			return recovery.Errorf(recovery.Unsupported, "more than %d tensors in one index", MaxIndexed)
		}
		value, err := s.str()
		if err != nil {
			return err
		}
		shard, ok := known[string(value)]
		if !ok {
			shard = string(value)
			known[shard] = shard
		}
		shards[name] = shard
		return nil
	})
	return shards, err
}

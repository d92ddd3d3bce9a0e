package checkpoint

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Limits on a sharded checkpoint. No model has more than some hundred shards.
const (
	maxShards    = 4096
	openAtOnce   = 16
	maxNameBytes = 1024
)

// openShards opens an index and every shard that it names. Each tensor must be
// in the one shard that the index names for it, and nowhere else.
func openShards(ctx context.Context, src source.Source, ix *Index, name string) error {
	data, err := readAll(ctx, src, name, maxIndexBytes)
	if err != nil {
		return err
	}
	where, err := safetensors.ParseShardIndex(data)
	if err != nil {
		return inFile(err, name)
	}
	shards := slices.Compact(slices.Sorted(maps.Values(where)))
	if len(shards) > maxShards {
		return invalid(name, "%d shards, at most %d are allowed", len(shards), maxShards)
	}
	for _, s := range shards {
		if len(s) > maxNameBytes || !source.ValidName(s) {
			return invalid(name, "%.80q names a shard outside the checkpoint's folder", s)
		}
	}
	files := make([]source.File, len(shards))
	headers := make([]*safetensors.Header, len(shards))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i, s := range shards {
		g.Go(func() (err error) {
			files[i], headers[i], err = readHeader(gctx, src, s)
			return shardError(err, name, s)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, h := range headers {
		ix.add(files[i], h)
	}
	return agree(ix, where, name)
}

// shardError turns what the source says about a shard's name into a verdict
// on the checkpoint that names it: a shard that is not there, or that is a
// link out of the folder, is the checkpoint's fault. What this process may not
// read is not.
func shardError(err error, index, shard string) error {
	var e *recovery.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Class == recovery.NotFound:
		missing := recovery.Errorf(recovery.InvalidCheckpoint, "%s names this file, but it is not there", index)
		missing.Op, missing.File, missing.Hint = "open", shard, "download or copy the rest of the checkpoint"
		return missing
	case e.Class == recovery.NotAllowed && !errors.Is(err, fs.ErrPermission):
		e.Class = recovery.InvalidCheckpoint
	}
	return err
}

// agree checks that the index and the shards' headers tell the same.
func agree(ix *Index, where map[string]string, name string) error {
	found := make(map[string]bool, len(where))
	for _, t := range ix.Tensors {
		shard := ix.Files[t.File].Name
		switch want, ok := where[t.Name]; {
		case !ok:
			return invalidTensor(shard, t.Name, "it is not in %s", name)
		case want != shard:
			return invalidTensor(shard, t.Name, "%s says that it is in %s", name, want)
		}
		found[t.Name] = true
	}
	if len(found) == len(where) {
		return nil
	}
	for _, tensor := range slices.Sorted(maps.Keys(where)) {
		if !found[tensor] {
			return invalidTensor(where[tensor], tensor, "%s says that it is here, but it is not", name)
		}
	}
	return nil
}

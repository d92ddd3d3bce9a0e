package checkpoint

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/header"
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
		return header.InFile(err, name)
	}
	shards := where.Shards
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
	ix.add(files, headers)
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
func agree(ix *Index, where *safetensors.ShardIndex, name string) error {
	found := make([]bool, len(where.Tensors))
	for _, t := range ix.Tensors {
		shard := ix.Files[t.File].Name
		i, ok := slices.BinarySearchFunc(where.Tensors, t.Name, func(x safetensors.Indexed, name string) int { return strings.Compare(x.Name, name) })
		switch {
		case !ok:
			return invalidTensor(shard, t.Name, "it is not in %s", name)
		case where.Tensors[i].Shard != t.File:
			return invalidTensor(shard, t.Name, "%s says that it is in %s", name, where.Shards[where.Tensors[i].Shard])
		}
		found[i] = true
	}
	if i := slices.Index(found, false); i >= 0 {
		t := where.Tensors[i]
		return invalidTensor(where.Shards[t.Shard], t.Name, "%s says that it is here, but it is not", name)
	}
	return nil
}

package checkpoint

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/onnx"
	"github.com/gantry-ml/gantry/source"
)

// openONNX opens a model and the files of its external data.
func openONNX(ctx context.Context, src source.Source, ix *Index, name string) error {
	file, h, err := readONNX(ctx, src, name)
	if err != nil {
		return err
	}
	external := make([]source.File, len(h.External))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i, s := range h.External {
		g.Go(func() (err error) {
			external[i], err = stat(gctx, src, s)
			return shardError(err, name, s)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	ix.Files = append([]source.File{file}, external...)
	values := len(ix.Files)
	if h.ValueBytes() > 0 {
		ix.Files = append(ix.Files, valueFile(file, h))
	}
	ix.Tensors = h.Tensors
	for i := range ix.Tensors {
		t := &ix.Tensors[i]
		if t.File++; t.File == onnx.InValues+1 {
			t.File = int32(values)
		}
		if t.Shape == nil {
			t.Shape = []int64{}
		}
		if size := ix.Files[t.File].Size; t.Offset > size || t.Bytes > size-t.Offset {
			return invalidTensor(ix.Files[t.File].Name, t.Name, "%s says that it has %d bytes from %d on, but the file has %d: truncated", name, t.Bytes, t.Offset, size)
		}
	}
	slices.SortStableFunc(ix.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	ix.Quantized = h.Quantized
	for _, kv := range h.Metadata {
		ix.say(kv.Key, kv.Value)
	}
	return nil
}

func readONNX(ctx context.Context, src source.Source, name string) (source.File, *onnx.Header, error) {
	r, err := src.Open(ctx, name)
	if err != nil {
		return source.File{}, nil, err
	}
	h, err := onnx.Read(ctx, r)
	return r.File(), h, cmp.Or(err, r.Close())
}

// stat says what a file is.
func stat(ctx context.Context, src source.Source, name string) (source.File, error) {
	r, err := src.Open(ctx, name)
	if err != nil {
		return source.File{}, err
	}
	return r.File(), r.Close()
}

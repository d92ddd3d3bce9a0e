package checkpoint_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// crowd is a source that opens no shard before some are being opened at once.
type crowd struct {
	source.Source
	atOnce        int64
	opening, most atomic.Int64
	there         chan struct{} // closed when they are
}

func (s *crowd) Open(ctx context.Context, name string) (source.Reader, error) {
	if strings.HasSuffix(name, ".json") {
		return s.Source.Open(ctx, name)
	}
	n := s.opening.Add(1)
	defer s.opening.Add(-1)
	for m := s.most.Load(); n > m; m = s.most.Load() {
		if s.most.CompareAndSwap(m, n) && n == s.atOnce {
			close(s.there)
		}
	}
	select {
	case <-s.there:
		return s.Source.Open(ctx, name)
	case <-time.After(10 * time.Second):
		return nil, recovery.Errorf(recovery.Timeout, "%d files are never opened at once", s.atOnce)
	}
}

// TestThousandShards opens a checkpoint of 1,000 shards: some at a time, each
// once, with two reads of its header and none of its tensors.
func TestThousandShards(t *testing.T) {
	const shards, bytes = 1000, 64 * 64
	dir, where := t.TempDir(), map[string]string{}
	var need int64
	for i := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards)
		var list []safetensors.Tensor
		for j := range 3 {
			tensor := fmt.Sprintf("layers.%d.%d.weight", i, j)
			list = append(list, safetensors.Tensor{Name: tensor, DType: dtype.U8, Shape: []int64{64, 64}})
			where[tensor] = name
		}
		_, head, size, err := safetensors.Layout(list, nil)
		if err != nil {
			t.Fatal(err)
		}
		need += int64(len(head))
		writeText(t, filepath.Join(dir, name), string(append(head, make([]byte, size-int64(len(head)))...)))
	}
	index, err := json.Marshal(map[string]any{"weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	need += int64(len(index))
	writeText(t, filepath.Join(dir, indexName), string(index))
	src, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var c source.Counter
	s := &crowd{Source: source.Count(src, &c), atOnce: 4, there: make(chan struct{})}
	ix, err := checkpoint.Open(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(ix.Tensors) != 3*shards || len(ix.Files) != shards {
		t.Errorf("%d tensors in %d files", len(ix.Tensors), len(ix.Files))
	}
	if c.Bytes.Load() != need || c.Opens.Load() != shards+1 || c.Reads.Load() != 2*shards+1 {
		t.Errorf("%d bytes in %d reads of %d files, want %d in %d of %d", c.Bytes.Load(), c.Reads.Load(), c.Opens.Load(), need, 2*shards+1, shards+1)
	}
	if m := s.most.Load(); m > 16 {
		t.Errorf("%d files were opened at once", m)
	}
}

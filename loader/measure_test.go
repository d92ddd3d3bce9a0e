package loader

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// TestWholeTensorSchemes holds what schemes cost that need the largest value of
// a whole tensor: where a chunk has all of it nothing more than the plan says,
// however it is read; else the tensor is read once more by each node. The bytes
// are those of the tensor encoded at once, whatever the way.
func TestWholeTensorSchemes(t *testing.T) {
	path := longRows(t, 32*128) // of 64, 96 and 128 KiB
	for _, scheme := range []string{"nvfp4", "fp8_e4m3:scale=tensor"} {
		for _, c := range []struct {
			name    string
			chunk   int64
			staging int64
			mode    source.Mode
			reads   int // of each tensor, by one node
		}{
			{"held", 256 << 10, 0, source.ModePread, 1},
			{"mapped", 256 << 10, 0, source.ModeMmap, 1},
			{"too large to hold", 256 << 10, 512 << 10, source.ModePread, 2},
			{"in chunks", shard.MinChunkBytes, 0, source.ModePread, 2},
			{"in mapped chunks", shard.MinChunkBytes, 0, source.ModeMmap, 2},
		} {
			for _, nodes := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s/%s/nodes%d", scheme, c.name, nodes), func(t *testing.T) {
					src, ix := open(t, path)
					plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: scheme, ChunkBytes: c.chunk})
					want := plan.StoredBytes
					if c.chunk == shard.MinChunkBytes {
						for _, x := range plan.Tensors {
							if x.Bytes > c.chunk {
								want += x.Bytes
							}
						}
					}
					if plan.ReadBytes != want || want > plan.StoredBytes != strings.Contains(fmt.Sprint(plan.Warnings), "read twice") {
						t.Fatalf("the plan reads %d of %d bytes, want %d; warnings %q", plan.ReadBytes, plan.StoredBytes, want, plan.Warnings)
					}
					m := newTeam(t, path, plan, nodes, NodeOptions{Staging: c.staging, Parallel: 2,
						Open: func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
							return source.Open(ctx, uri, source.Options{Mode: c.mode})
						}})
					if read := m.readAll(t.Context()); nodes == 1 && c.reads == 2 != (read > plan.StoredBytes) || read < plan.ReadBytes ||
						nodes == 1 && c.name != "too large to hold" && read != plan.ReadBytes {
						t.Errorf("read %d bytes, the plan says %d of %d", read, plan.ReadBytes, plan.StoredBytes)
					}
					m.same(src)
				})
			}
		}
	}
}

// TestMeasuringIsTriedAgain: a read that fails while a tensor is measured fails
// its chunk, and the next try measures it.
func TestMeasuringIsTriedAgain(t *testing.T) {
	path := longRows(t, 32*128)
	src, ix := open(t, path)
	plan := build(t, ix, shard.Options{Scheme: "nvfp4", ChunkBytes: shard.MinChunkBytes})
	f, err := source.ParseFaults("read model.safetensors [100000,100001) fail unavailable times=1")
	if err != nil {
		t.Fatal(err)
	}
	m := newTeam(t, path, plan, 1, NodeOptions{Open: func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
		s, err := source.Open(ctx, uri, source.Options{Mode: source.ModePread})
		if err != nil {
			return nil, err
		}
		return source.Inject(s, f), nil
	}})
	failed := 0
	for i := range plan.Chunks {
		for attempt := uint64(1); ; attempt++ {
			_, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Chunk: i, Attempt: attempt}, m.dests(i, 0))
			if err == nil {
				break
			}
			failed++
			if recovery.ClassOf(err) != recovery.Unavailable || attempt > 3 {
				t.Fatalf("chunk %d, attempt %d: %v", i, attempt, err)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d attempts failed, want 1", failed)
	}
	m.same(src)
}

// readAll loads every chunk, by the nodes in turn, and returns the bytes read.
func (m *team) readAll(ctx context.Context) int64 {
	m.t.Helper()
	var wg sync.WaitGroup
	var read atomic.Int64
	for i := range m.plan.Chunks {
		node := i % len(m.nodes)
		wg.Go(func() {
			_, n, err := m.nodes[node].Load(ctx, "j", job.Ref{Chunk: i, Attempt: 1}, m.dests(i, node))
			if err != nil {
				m.t.Errorf("chunk %d: %v", i, err)
			}
			read.Add(n)
		})
	}
	wg.Wait()
	return read.Load()
}

// same holds that the ranks together have what the whole tensors become.
func (m *team) same(src source.Source) {
	m.t.Helper()
	for i := range m.plan.Tensors {
		for p, want := range expect(m.t, src, m.plan, i) {
			if !bytes.Equal(m.joined(i)[p], want) {
				m.t.Errorf("%s plane %d differs", m.plan.Tensors[i].Name, p)
			}
		}
	}
}

// TestWholeTensorSchemesOfPackedWeights: the largest value is that of what a
// weight decodes to, whatever it is stored as.
func TestWholeTensorSchemesOfPackedWeights(t *testing.T) {
	for name, format := range packedFormats {
		f := newPackedFolder(3)
		dir := f.write(t, format(f))
		_, ix := open(t, dir)
		for _, scheme := range []string{"nvfp4", "fp8_e4m3:scale=tensor"} {
			for _, tp := range []int{1, 4} {
				plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: tp}, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
				m := newTeam(t, dir, plan, 1, NodeOptions{Staging: 4 << 20})
				if read := m.readAll(t.Context()); read != plan.ReadBytes {
					t.Errorf("%s as %s, tp %d: read %d bytes, the plan says %d", name, scheme, tp, read, plan.ReadBytes)
				}
				for i := range plan.Tensors {
					x := &plan.Tensors[i]
					values := f.want[x.Name]
					if x.Scheme != scheme || values == nil {
						continue
					}
					s, err := quant.Parse(scheme)
					if err != nil {
						t.Fatal(err)
					}
					var want [][]byte
					for _, p := range x.Layout.Planes {
						want = append(want, make([]byte, x.Rows*p.RowBytes(x.Cols)))
					}
					s.Encode(want, bytesOf(values), dtype.F32, int(x.Rows), int(x.Cols))
					if joined := m.joined(i); !slices.EqualFunc(joined, want, bytes.Equal) {
						t.Errorf("%s as %s, tp %d: %s is not the encoding of its values", name, scheme, tp, x.Name)
					}
				}
			}
		}
	}
}

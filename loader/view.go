package loader

import (
	"context"

	"github.com/gantry-ml/gantry/shard"
)

// view is rows of a slice in memory that the CPU can address: where they lie in
// the arena, or a copy of them. Rows are counted from the slice's first.
type view struct {
	enc    *encoded
	slice  *shard.Slice
	rows   shard.Span
	planes [][]byte
}

// planeAlign is what copies of planes start at, as in arenas.
const planeAlign = 256

// eachRows runs f with rows of a slice, step of them at a time, and with staging
// memory for n values.
func (c *checker) eachRows(ctx context.Context, s *shard.Slice, rows shard.Span, step, n int64, f func(v view, buf []float32) error) error {
	step = max(min(step, rows.Len()), 1)
	pinned, buffers, err := c.staging.getPinned(ctx, c.copiedBytes(s, step), 4*n)
	if err != nil {
		return err
	}
	defer c.staging.put(pinned)
	defer c.staging.put(buffers[0])
	for at := rows.Start; at < rows.Stop; at += step {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v, err := c.view(s, shard.Span{Start: at, Stop: min(at+step, rows.Stop)}, pinned)
		if err == nil {
			err = f(v, floats(buffers[0], n))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copiedBytes is how much memory a copy of rows takes, 0 where the CPU can
// address the arena.
func (c *checker) copiedBytes(s *shard.Slice, rows int64) (n int64) {
	if c.rank.arena.Host() != nil {
		return 0
	}
	for _, p := range s.Planes {
		n += aligned(rows * p.RowBytes)
	}
	return n
}

// noRows returns a view of a slice without any of its rows.
func (c *checker) noRows(s *shard.Slice) view {
	v := view{enc: &c.encoded[s.Tensor], slice: s}
	for range s.Planes {
		v.planes = append(v.planes, []byte{})
	}
	return v
}

// view returns rows of a slice where they lie, or copied to memory.
func (c *checker) view(s *shard.Slice, rows shard.Span, memory []byte) (view, error) {
	v := view{enc: &c.encoded[s.Tensor], slice: s, rows: rows}
	host := c.rank.arena.Host()
	for _, p := range s.Planes {
		off, bytes := p.Offset+rows.Start*p.RowBytes, rows.Len()*p.RowBytes
		if host != nil {
			v.planes = append(v.planes, host[off:off+bytes])
			continue
		}
		if err := c.rank.arena.CopyOut(memory[:bytes], off); err != nil {
			return view{}, err
		}
		v.planes, memory = append(v.planes, memory[:bytes]), memory[aligned(bytes):]
	}
	return v, nil
}

func aligned(n int64) int64 { return (n + planeAlign - 1) / planeAlign * planeAlign }

// decode turns rows of the view into float32.
func (v view) decode(dst []float32, rows shard.Span) {
	planes := make([][]byte, len(v.planes))
	for i, p := range v.slice.Planes {
		planes[i] = v.planes[i][(rows.Start-v.rows.Start)*p.RowBytes : (rows.Stop-v.rows.Start)*p.RowBytes]
	}
	v.enc.scheme.Decode(dst, planes, v.enc.tensor.From, int(rows.Len()), int(v.slice.Held.Len()))
}

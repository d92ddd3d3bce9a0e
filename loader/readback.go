package loader

import (
	"context"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/shard"
)

// readBack compares what lies on a device with the digests of the pieces that
// were copied there, which are of the memory that they were copied from.
func (c *checker) readBack(ctx context.Context) error {
	if c.rank.arena.Host() != nil {
		return nil
	}
	for i := range c.rank.plan.Chunks {
		p, err := piece(c.rank.plan, i, c.rank.hold.Rank)
		if err != nil {
			continue // the chunk has none
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		placed, release, err := c.rank.lend(i)
		if err != nil {
			return err
		}
		got, err := c.digestOnDevice(ctx, p)
		release()
		if err != nil {
			return err
		}
		if got != placed.digest {
			return c.failed("", "rank %d: on %s the piece of chunk %d has digest %x, what was copied there %x",
				c.rank.hold.Rank, c.rank.hold.Device, i, got, placed.digest)
		}
	}
	return nil
}

// digestOnDevice copies a piece back and returns its digest.
func (c *checker) digestOnDevice(ctx context.Context, p *shard.Piece) ([16]byte, error) {
	pinned, _, err := c.staging.getPinned(ctx, p.Bytes)
	if err != nil {
		return [16]byte{}, err
	}
	defer c.staging.put(pinned)
	mem := split(pinned, p)
	if err := c.rank.copyOut(mem, p); err != nil {
		return [16]byte{}, err
	}
	h := xxh3.New()
	for _, m := range mem {
		h.Write(m)
	}
	return h.Sum128().Bytes(), nil
}

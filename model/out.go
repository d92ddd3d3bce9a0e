package model

import (
	"context"
	"slices"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// outPlane says where in a file a plane of a tensor goes, and what is done to
// it on the way. What lies in the file is the same whatever the layout.
type outPlane struct {
	tensor, plane int
	offset        int64 // of its first row
	// head is the number of rows of a head whose halves are interleaved in the
	// file (gguf/names); 0 leaves rows in order.
	head int64
	// values is how the plane is written where it is not copied as it is kept.
	values *outValues
}

// outValues are values that are worked out to be written.
type outValues struct {
	as        quant.Scheme // a cast
	size      int64        // bytes of an element
	shift     float32      // what is added to each, in F32
	transpose bool         // columns become rows
}

// outWriter writes to a file what ranks hold of a model.
type outWriter struct {
	m     *Model
	write func(p []byte, off int64) error
	run   []byte // rows that are gathered
	read  []byte // rows of an arena that is not host memory
}

// outStep is about how many bytes are gathered, or worked out, at once.
const outStep = 4 << 20

// writePlane writes a plane.
func (w *outWriter) writePlane(ctx context.Context, o outPlane) error {
	t := &w.m.parts.Plan.Tensors[o.tensor]
	for _, part := range w.m.parts.Plan.Cover(o.tensor) {
		p := outPart{outWriter: w, outPlane: o, tensor: t, slice: part.Slice, arena: w.m.parts.Arenas[part.Rank]}
		var err error
		switch {
		case o.values != nil:
			err = p.convert(ctx)
		case o.head > 0:
			err = p.interleave(ctx)
		default:
			err = p.copy(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// outPart is one rank's part of a plane.
type outPart struct {
	*outWriter
	outPlane
	tensor *shard.Tensor
	slice  *shard.Slice
	arena  device.Arena // of the rank
}

// rows returns rows of a plane of the part, counted from the tensor's first:
// memory of the arena where the CPU can address it, else a copy in buf, which
// grows as it must.
func (p *outPart) rows(buf *[]byte, plane int, from, to int64) ([]byte, error) {
	at := p.slice.Planes[plane]
	start, stop := at.Offset+(from-p.slice.Rows.Start)*at.RowBytes, at.Offset+(to-p.slice.Rows.Start)*at.RowBytes
	if host := p.arena.Host(); host != nil {
		return host[start:stop:stop], nil
	}
	*buf = slices.Grow((*buf)[:0], int(stop-start))[:stop-start]
	return *buf, p.arena.CopyOut(*buf, start)
}

// place returns where in the file the part's columns of a row lie, given the
// bytes of a whole row.
func (p *outPart) place() (rowBytes, first int64) {
	plane := p.tensor.Layout.Planes[p.plane]
	if plane.Cols > 0 { // else each part has the row's one unit
		first = plane.RowBytes(p.slice.Held.Start)
	}
	return plane.RowBytes(p.tensor.Cols), first
}

// copy writes rows as they are kept.
func (p *outPart) copy(ctx context.Context) error {
	whole, first := p.place()
	held := p.slice.Planes[p.plane].RowBytes
	step := max(outStep/max(whole, 1), 1)
	for at := p.slice.Rows.Start; at < p.slice.Rows.Stop; at += step {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		stop := min(at+step, p.slice.Rows.Stop)
		rows, err := p.rows(&p.read, p.plane, at, stop)
		if err != nil {
			return err
		}
		if held == whole {
			if err := p.write(rows, p.offset+at*whole); err != nil {
				return err
			}
			continue
		}
		// A block that two ranks hold is written twice, with the same bytes.
		for r := at; r < stop; r++ {
			if err := p.write(rows[(r-at)*held:(r-at+1)*held], p.offset+r*whole+first); err != nil {
				return err
			}
		}
	}
	return nil
}

package model

import (
	"context"

	"github.com/gantry-ml/gantry/checkpoint/gguf/names"
	"github.com/gantry-ml/gantry/dtype"
)

// interleave writes rows in the order that GGUF has them in, gathered into runs
// that follow each other in the file.
func (p *outPart) interleave(ctx context.Context) error {
	whole, first := p.place()
	plane := p.plane
	held := p.slice.Planes[plane].RowBytes
	run := p.run[:0]
	start := int64(0) // the file's row that run begins with
	flush := func() error {
		if len(run) == 0 {
			return nil
		}
		err := p.write(run, p.offset+start*whole+first)
		run = run[:0]
		return err
	}
	// Heads that the part cuts, which only layouts that do not know them do,
	// hold rows of other parts too.
	from := p.slice.Rows.Start / p.head * p.head
	to := min((p.slice.Rows.Stop+p.head-1)/p.head*p.head, p.tensor.Rows)
	for at := from; at < to; at++ {
		r := names.FromGGUF(at, p.head)
		if r < p.slice.Rows.Start || r >= p.slice.Rows.Stop {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if len(run) == 0 {
			start = at
		}
		row, err := p.rows(&p.read, plane, r, r+1)
		if err != nil {
			return err
		}
		run = append(run, row...)
		if held < whole || len(run) >= outStep {
			if err := flush(); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	p.run = run[:0]
	return flush()
}

// convert writes values: decoded, shifted, cast, transposed.
func (p *outPart) convert(ctx context.Context) error {
	cols := p.slice.Held.Len()
	step := max(stepValues/max(cols, 1), 1)
	for at := p.slice.Rows.Start; at < p.slice.Rows.Stop; at += step {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		stop := min(at+step, p.slice.Rows.Stop)
		b, err := p.worked(at, stop)
		if err != nil {
			return err
		}
		if p.values.transpose {
			err = p.writeColumns(b, at, stop)
		} else {
			err = p.writeRows(b, at, stop)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// worked returns rows of the part as the file has their values.
func (p *outPart) worked(from, to int64) ([]byte, error) {
	rows, cols := int(to-from), int(p.slice.Held.Len())
	planes := make([][]byte, len(p.slice.Planes))
	for i := range planes {
		var buf []byte // one each
		var err error
		if planes[i], err = p.rows(&buf, i, from, to); err != nil {
			return nil, err
		}
	}
	values := make([]float32, rows*cols)
	p.m.schemes[p.outPlane.tensor].Decode(values, planes, p.tensor.From, rows, cols)
	if p.values.shift != 0 {
		for i, v := range values {
			values[i] = v + p.values.shift
		}
	}
	out := make([]byte, int64(len(values))*p.values.size)
	p.values.as.Encode([][]byte{out}, littleEndian(values), dtype.F32, rows, cols)
	return out, nil
}

// writeRows writes worked-out rows.
func (p *outPart) writeRows(b []byte, from, to int64) error {
	size, held := p.values.size, p.slice.Held
	if held.Len() == p.tensor.Cols {
		return p.write(b, p.offset+from*held.Len()*size)
	}
	for r := from; r < to; r++ {
		row := b[(r-from)*held.Len()*size:][:held.Len()*size]
		if err := p.write(row, p.offset+(r*p.tensor.Cols+held.Start)*size); err != nil {
			return err
		}
	}
	return nil
}

// writeColumns writes worked-out rows as columns: what is a column here lies
// together in the file.
func (p *outPart) writeColumns(b []byte, from, to int64) error {
	size, held, rows := p.values.size, p.slice.Held, to-from
	column := make([]byte, rows*size)
	for c := range held.Len() {
		for r := range rows {
			copy(column[r*size:(r+1)*size], b[(r*held.Len()+c)*size:])
		}
		if err := p.write(column, p.offset+((held.Start+c)*p.tensor.Rows+from)*size); err != nil {
			return err
		}
	}
	return nil
}

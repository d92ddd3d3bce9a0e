package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"unsafe"

	"github.com/gantry-ml/gantry/quant/form"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// feed reads a chunk's rows, slab by slab, and transforms each while it is
// warm.
type feed struct {
	load    *chunkLoad
	reader  source.Reader
	mapper  source.Mapper // nil where the chunk is read into a slab
	batches [][]span
	slab    int64 // bytes
	scratch int64 // bytes
	beside  int64 // bytes of the chunk's other runs
	whole   bool  // the whole chunk is read into memory first

	check  check
	stream io.ReadCloser // over the batches that lie side by side; nil: none is open
	next   int64         // offset in the file of its next byte
}

// newFeed opens the chunk's file, divides the runs into reads, and fits their
// schemes.
func (l *chunkLoad) newFeed(ctx context.Context, runs []run) (*feed, error) {
	f, err := l.newReads(ctx, runs)
	if err != nil {
		return nil, err
	}
	return f, f.fit(ctx, runs)
}

// newReads opens the chunk's file and divides the runs into reads.
func (l *chunkLoad) newReads(ctx context.Context, runs []run) (*feed, error) {
	f := &feed{load: l, scratch: scratchNeed(runs)}
	var err error
	if f.reader, err = l.job.reader(ctx, l.chunk.File); err != nil {
		return nil, err
	}
	f.check = check{file: f.reader.File().Name, set: l.job.digestsOf(l.chunk.File), more: f.more}
	if m, ok := f.reader.(source.Mapper); ok && m.Warm(l.chunk.Offset, l.chunk.Bytes) {
		f.mapper = m
	}
	if l.chunk.Shared() && f.fits() { // else what is shared is read for each
		f.whole, f.mapper = true, nil
	}
	for _, r := range l.chunk.Also {
		f.beside += r.Bytes
	}
	// Two slabs of every chunk in work must fit the budget, or little else
	// would: the smaller the budget, the smaller the reads.
	limit := int64(slabBytes)
	if f.mapper != nil {
		limit = mappedBytes
	}
	f.batches = batches(runs, min(limit, l.node.staging.budget/int64(2*l.job.lane.slots.limit)))
	for _, b := range f.batches {
		if f.mapper == nil && !f.whole && !keepsBytes(b) {
			f.slab = max(f.slab, batchBytes(b))
		}
	}
	return f, nil
}

// need returns the bytes of the buffer that run wants.
func (f *feed) need() int64 {
	n := f.scratch + f.slab + f.beside
	if f.whole {
		n += f.load.chunk.Bytes
	}
	return n
}

// run reads and transforms everything.
func (f *feed) run(ctx context.Context, buffer []byte) error {
	if f.whole {
		end := f.need()
		if err := f.readWhole(ctx, buffer[:f.scratch], buffer[end-f.load.chunk.Bytes:end]); err != nil {
			return err
		}
	}
	if f.mapper != nil {
		f.mapper.Prepare(f.load.chunk.Offset, f.load.chunk.Bytes)
	}
	x := &transform{}
	if spec := f.load.job.spec; spec.Validate {
		x.plan = spec.Plan
	}
	return f.each(ctx, x, buffer)
}

// each reads everything and hands it to x.
func (f *feed) each(ctx context.Context, x *transform, buffer []byte) (err error) {
	defer func() { err = cmp.Or(err, f.endStream()) }()
	x.scratch = buffer[:f.scratch]
	slab := buffer[f.scratch : f.scratch+f.slab]
	if x.beside, err = f.readBeside(ctx, buffer[f.scratch+f.slab:][:f.beside]); err != nil {
		return err
	}
	for i, b := range f.batches {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := batchBytes(b)
		if err := f.batch(ctx, x, i, slab); err != nil {
			return f.locate(ctx, b, n, err)
		}
		if !f.whole {
			f.load.read += n
		}
	}
	err = f.check.end(ctx)
	if err == nil && f.mapper != nil {
		err = f.mapper.Verify() // of all that was read, before any of it counts
	}
	if err != nil {
		last := f.batches[len(f.batches)-1]
		return f.locate(ctx, last, batchBytes(last), err)
	}
	return nil
}

// more reads bytes for the check alone. A stream that is open would keep the
// source's turn that it needs.
func (f *feed) more(ctx context.Context, p []byte, off int64) error {
	if f.mapper != nil && !f.whole {
		src, err := f.mapper.Range(off, int64(len(p)))
		if err == nil {
			err = onFault(src, func() { copy(p, src) })
		}
		return err
	}
	if err := f.endStream(); err != nil {
		return err
	}
	f.load.read += int64(len(p))
	return f.reader.ReadAt(ctx, p, off)
}

// begin readies the check for a batch, before its bytes are asked for.
func (f *feed) begin(ctx context.Context, b []span) error {
	t := &f.load.job.spec.Plan.Tensors[b[0].run.seg.Tensor]
	return f.check.begin(ctx, t.Name, t.Offset, f.load.chunk.Offset+b[0].at-t.Offset)
}

// verify checks the bytes of a batch.
func (f *feed) verify(ctx context.Context, b []span, src []byte) error {
	if f.check.set == nil {
		return nil
	}
	for i, s := range b {
		if err := f.begin(ctx, b[i:]); err != nil {
			return err
		}
		if err := f.check.add(src[s.at-b[0].at:][:s.bytes()]); err != nil {
			return err
		}
	}
	return nil
}

// readBeside reads the chunk's other runs: what its rows need of the other parts
// of a packed weight.
func (f *feed) readBeside(ctx context.Context, buffer []byte) (list []form.Slab, err error) {
	c := f.load.chunk
	if len(c.Also) == 0 {
		return nil, nil
	}
	seg := &c.Segments[0]
	t := &f.load.job.spec.Plan.Tensors[seg.Tensor]
	parts := t.Source.Parts()
	for i, run := range c.Also {
		b := buffer[:run.Bytes]
		buffer = buffer[run.Bytes:]
		if err := f.readRun(ctx, t.Name, run, t.Parts[i].Offset, b); err != nil {
			return nil, f.located(ctx, seg.Tensor, run, err)
		}
		list = append(list, form.Slab{Data: b, First: parts[1+i].Range(form.Range(seg.Rows), form.Range(seg.Cols)).Start})
	}
	return list, nil
}

// readRun reads a run of a part of a tensor, which starts at start in its file,
// and checks it.
func (f *feed) readRun(ctx context.Context, tensor string, run shard.Run, start int64, b []byte) error {
	r, err := f.load.job.reader(ctx, run.File)
	if err != nil {
		return err
	}
	read := func(ctx context.Context, p []byte, off int64) error {
		f.load.read += int64(len(p))
		return r.ReadAt(ctx, p, off)
	}
	c := check{file: r.File().Name, set: f.load.job.digestsOf(run.File), more: read}
	if err := c.begin(ctx, tensor, start, run.Offset-start); err != nil {
		return err
	}
	if err := read(ctx, b, run.Offset); err != nil {
		return err
	}
	return cmp.Or(c.add(b), c.end(ctx))
}

// read fills p with what follows in the file at off, where batch i begins. A
// stream is opened for all batches that lie side by side from there on, so
// that a remote source has one request to answer, not one for each slab.
func (f *feed) read(ctx context.Context, i int, p []byte, off int64) (err error) {
	if f.stream == nil || f.next != off {
		if err := f.endStream(); err != nil {
			return err
		}
		end := off
		for _, b := range f.batches[i:] {
			if f.load.chunk.Offset+b[0].at != end {
				break
			}
			end += batchBytes(b)
		}
		if f.stream, err = source.Stream(ctx, f.reader, off, end-off); err != nil {
			return err
		}
		f.next = off
	}
	n, err := io.ReadFull(f.stream, p)
	f.next += int64(n)
	return err
}

func (f *feed) endStream() error {
	if f.stream == nil {
		return nil
	}
	s := f.stream
	f.stream = nil
	return s.Close()
}

// batch reads batch i and transforms it.
func (f *feed) batch(ctx context.Context, x *transform, i int, slab []byte) error {
	b := f.batches[i]
	n, off := batchBytes(b), f.load.chunk.Offset+b[0].at
	if err := f.begin(ctx, b); err != nil {
		return err
	}
	if f.mapper != nil {
		src, err := f.mapper.Range(off, n)
		if err != nil {
			return err
		}
		var wrong error
		err = onFault(src, func() {
			if wrong = f.verify(ctx, b, src); wrong == nil {
				x.batch(b, src)
			}
		})
		return cmp.Or(err, wrong)
	}
	if keepsBytes(b) {
		to := x.first(b[0])
		if err := f.read(ctx, i, to, off); err != nil {
			return err
		}
		if err := f.verify(ctx, b, to); err != nil {
			return err
		}
		x.stored(b[0])
		return nil
	}
	if err := f.read(ctx, i, slab[:n], off); err != nil {
		return err
	}
	if err := f.verify(ctx, b, slab[:n]); err != nil {
		return err
	}
	x.batch(b, slab)
	return nil
}

// locate says which file, tensor and bytes an error about a batch is about.
func (f *feed) locate(ctx context.Context, b []span, n int64, err error) error {
	c := f.load.chunk
	return f.located(ctx, b[0].run.seg.Tensor, shard.Run{File: c.File, Offset: c.Offset + b[0].at, Bytes: n}, err)
}

func (f *feed) located(ctx context.Context, tensor int, r shard.Run, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	plan := f.load.job.spec.Plan
	out := &recovery.Error{Class: recovery.ClassOf(err), Op: "read", File: plan.Files[r.File].Name,
		Tensor: plan.Tensors[tensor].Name, Offset: r.Offset, Length: r.Bytes, Err: err}
	// The reader knows the place as well; it is said once.
	var inner *recovery.Error
	if errors.As(err, &inner) && inner.Err != nil {
		out.Err, out.Hint = inner.Err, inner.Hint
		if inner.Tensor != "" { // the check, which knows better
			return inner
		}
	}
	return out
}

func batchBytes(b []span) int64 {
	last := b[len(b)-1]
	return last.at + last.bytes() - b[0].at
}

// onFault runs f, which reads mapped memory, and turns an access fault in it
// into an error: the file was cut short while it was mapped. Any other panic
// goes on.
func onFault(mapped []byte, f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface{ Addr() uintptr })
		start := uintptr(unsafe.Pointer(unsafe.SliceData(mapped)))
		if !ok || fault.Addr() < start || fault.Addr() >= start+uintptr(len(mapped)) {
			panic(r)
		}
		err = &recovery.Error{Class: recovery.SourceChanged, Op: "read",
			Err: fmt.Errorf("the file was cut short while it was mapped"), Hint: "load again"}
	}()
	f()
	return nil
}

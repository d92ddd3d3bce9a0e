package loader

import (
	"context"
	"errors"
	"io"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// Some schemes need the largest value of a whole tensor before any of it can
// be encoded (quant.Tensor: nvfp4, fp8 with one scale). Where a chunk has all
// of the tensor, its bytes are kept until it is encoded: mapped, or in staging
// memory. A tensor of several chunks is read once for the value alone,
// by the first of its chunks that this node loads, and then as any other; the
// plan counts it twice.

// measure is the largest finite magnitude of a tensor, once it is known.
type measure struct {
	turn   chan struct{} // a token for who reads the tensor, or what follows
	known  bool
	absmax float32
}

func newMeasure() *measure { return &measure{turn: make(chan struct{}, 1)} }

// get returns the value, and finds it out if nobody has.
func (m *measure) get(ctx context.Context, find func() (float32, error)) (float32, error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { <-m.turn }()
	if m.known {
		return m.absmax, nil
	}
	absmax, err := find()
	if err != nil {
		return 0, err
	}
	m.known, m.absmax = true, absmax
	return absmax, nil
}

// errWhole says that a value is found when the chunk has been read.
var errWhole = errors.New("the whole chunk is to be read first")

// fit fits the schemes of runs to their tensors, as far as that can be done
// before the chunk is read; where it cannot, the whole chunk is read first.
func (f *feed) fit(ctx context.Context, runs []run) error {
	for i := range runs {
		r := &runs[i]
		if r.enc.measure == nil {
			continue
		}
		absmax, err := r.enc.measure.get(ctx, func() (float32, error) {
			if f.load.job.spec.Plan.ReadTwice(r.seg.Tensor) {
				return f.load.readFor(ctx, r.seg.Tensor)
			}
			if f.mapper == nil && f.fits() {
				return 0, errWhole
			}
			part := f.load.part(f.load.chunk)
			absmax, err := part.absmax(ctx, r.seg, f.mapper)
			if f.mapper == nil { // else it is read once more from memory only
				f.load.read += part.read
			}
			return absmax, err
		})
		switch {
		case errors.Is(err, errWhole):
			f.whole, f.slab = true, 0
			f.scratch = max(f.scratch, scratchNeed([]run{measuring(r.seg, r.enc)}))
		case err != nil:
			return err
		default:
			r.scheme = quant.Fit(r.enc.scheme, absmax)
		}
	}
	return nil
}

// fits says whether every chunk in work could be in staging memory at once.
func (f *feed) fits() bool {
	return f.load.chunk.Bytes <= f.load.node.staging.budget/int64(2*f.load.job.lane.slots.limit)
}

// readFor reads a tensor of several chunks, of which the load's is one, for its
// largest value.
func (l *chunkLoad) readFor(ctx context.Context, tensor int) (float32, error) {
	chunks := l.job.spec.Plan.Chunks
	segment := func(c int) *shard.Segment {
		for i := range chunks[c].Segments {
			if s := &chunks[c].Segments[i]; s.Tensor == tensor {
				return s
			}
		}
		return nil
	}
	first := l.ref.Chunk // they follow each other
	for first > 0 && segment(first-1) != nil {
		first--
	}
	var absmax float32
	for c := first; c < len(chunks); c++ {
		seg := segment(c)
		if seg == nil {
			break
		}
		part := l.part(&chunks[c])
		most, err := part.absmax(ctx, seg, nil)
		l.read += part.read
		if err != nil {
			return 0, err
		}
		absmax = max(absmax, most)
	}
	return absmax, nil
}

// part is a load of another chunk, within this one, that places nothing.
func (l *chunkLoad) part(c *shard.Chunk) *chunkLoad {
	return &chunkLoad{node: l.node, job: l.job, ref: l.ref, chunk: c}
}

// measuring is a run over a whole segment, of which nothing is placed.
func measuring(seg *shard.Segment, enc *encoded) run {
	return run{seg: seg, enc: enc, srcRow: seg.Bytes / seg.Rows.Len(), held: enc.tensor.Held(), rows: seg.Rows}
}

// absmax reads a segment for its largest value, from a mapping where there is
// one.
func (l *chunkLoad) absmax(ctx context.Context, seg *shard.Segment, mapper source.Mapper) (float32, error) {
	runs := []run{measuring(seg, &l.job.encoded[seg.Tensor])}
	f, err := l.newReads(ctx, runs)
	if err != nil {
		return 0, err
	}
	if mapper != nil { // whose bytes are checked when they are encoded
		f.mapper, f.slab, f.check = mapper, 0, check{}
	}
	if mapper == nil { // it is read once more
		if err := l.job.pace.Wait(ctx, seg.Bytes); err != nil {
			return 0, err
		}
	}
	buffers, err := l.node.staging.get(ctx, f.need())
	if err != nil {
		return 0, err
	}
	defer l.node.staging.put(buffers[0])
	return f.measure(ctx, buffers[0])
}

// measure reads everything for its largest value.
func (f *feed) measure(ctx context.Context, buffer []byte) (float32, error) {
	x := &transform{measures: true}
	err := f.each(ctx, x, buffer)
	return x.absmax, err
}

// readWhole reads the whole chunk into memory, from which the batches then
// come, and fits what could not be fitted before.
func (f *feed) readWhole(ctx context.Context, scratch, memory []byte) error {
	c := f.load.chunk
	in, err := source.Stream(ctx, f.reader, c.Offset, c.Bytes)
	if err == nil {
		_, err = io.ReadFull(in, memory)
		err = errors.Join(err, in.Close())
	}
	if err != nil {
		return f.locate(ctx, f.batches[0], c.Bytes, err)
	}
	f.load.read += c.Bytes
	f.mapper = &inMemory{Reader: f.reader, memory: memory, at: c.Offset}
	for _, b := range f.batches {
		for _, s := range b {
			r := s.run
			if r.enc.measure == nil {
				continue
			}
			absmax, err := r.enc.measure.get(ctx, func() (float32, error) {
				runs := []run{measuring(r.seg, r.enc)}
				part := &feed{load: f.load.part(c), reader: f.reader, mapper: f.mapper, batches: batches(runs, slabBytes), scratch: scratchNeed(runs)}
				return part.measure(ctx, scratch)
			})
			if err != nil {
				return err
			}
			r.scheme = quant.Fit(r.enc.scheme, absmax)
		}
	}
	return nil
}

// inMemory is a chunk in staging memory, seen as a mapping of its file.
type inMemory struct {
	source.Reader
	memory []byte
	at     int64 // where it begins in the file
}

func (*inMemory) Warm(int64, int64) bool { return true }

func (*inMemory) Prepare(int64, int64) {}

func (m *inMemory) Range(off, n int64) ([]byte, error) { return m.memory[off-m.at:][:n:n], nil }

func (*inMemory) Verify() error { return nil }

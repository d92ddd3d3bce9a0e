package onnx

import (
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/recovery"
)

// Sizes of the runs that a model is read in. Runs grow while nothing is passed
// over and begin small again behind the bytes of a tensor, so that at most as
// much again as is needed, and a small run for each tensor, is read for
// nothing.
const (
	minRun = 4 << 10
	maxRun = 512 << 10
)

// window reads a file front to back.
type window struct {
	r      io.ReaderAt
	size   int64  // of the file
	off    int64  // offset of what comes next
	buf    []byte // what has been read of that
	run    []byte // holds buf
	streak int64  // bytes read since something was passed over
}

func (w *window) failAt(off int64, format string, args ...any) error {
	e := recovery.Errorf(recovery.InvalidCheckpoint, format, args...)
	e.Offset, e.Length = off, 1
	return e
}

// peek returns the next n bytes, or all up to stop, at most maxRun, without
// going on. They are valid until the next call.
func (w *window) peek(n, stop int64) ([]byte, error) {
	n = min(n, stop-w.off)
	if int64(len(w.buf)) < n {
		if err := w.fill(n); err != nil {
			return nil, err
		}
	}
	return w.buf[:min(int64(len(w.buf)), stop-w.off)], nil
}

// fill reads on until buf holds n bytes or more, which the file has.
func (w *window) fill(n int64) error {
	have := len(w.buf)
	want := int(min(max(n, min(max(w.streak, minRun), maxRun)), w.size-w.off))
	if cap(w.run) < want {
		run := make([]byte, want)
		copy(run, w.buf)
		w.run = run
	} else {
		w.run = w.run[:want]
		copy(w.run, w.buf)
	}
	if _, err := w.r.ReadAt(w.run[have:], w.off+int64(have)); err != nil {
		return err
	}
	w.streak += int64(want - have)
	w.buf = w.run
	return nil
}

// to goes on to a later offset, which the file has, without reading what lies
// between.
func (w *window) to(off int64) {
	n := off - w.off
	if n > int64(len(w.buf)) {
		w.streak = 0
	}
	w.buf = w.buf[min(n, int64(len(w.buf))):]
	w.off = off
}

// varint reads a varint of a message that ends at stop.
func (w *window) varint(stop int64) (uint64, error) {
	const most = 10 // bytes
	b, err := w.peek(most, stop)
	if err != nil {
		return 0, err
	}
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, w.failAt(w.off, "no number where the protobuf message should have one: %w", protowire.ParseError(n))
	}
	w.to(w.off + int64(n))
	return v, nil
}

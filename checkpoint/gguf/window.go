package gguf

import (
	"encoding/binary"
	"io"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Sizes of the runs that a header is read in. A header does not say how long
// it is: runs grow with what has been read, so that at most as much again is
// read for nothing.
const (
	minRun = 16 << 10
	maxRun = 512 << 10
	// maxHeader bounds what is read of a header in all, in bytes: it is many
	// times the largest vocabulary. A file that is a hole may claim any number
	// of empty strings.
	maxHeader = 512 << 20
)

// window reads a file front to back. A claim about how much follows is
// checked against the file's size before anything is read or allocated.
type window struct {
	r    io.ReaderAt
	size int64  // of the file
	off  int64  // offset of what comes next
	read int64  // bytes so far
	buf  []byte // what has been read of that
	run  []byte // holds buf
}

// left returns the bytes of the file from here on.
func (w *window) left() int64 { return w.size - w.off }

// fail returns an error about the bytes from here on.
func (w *window) fail(format string, args ...any) error {
	return w.failAt(w.off, format, args...)
}

func (w *window) failAt(off int64, format string, args ...any) error {
	e := recovery.Errorf(recovery.InvalidCheckpoint, format, args...)
	e.Offset, e.Length = off, 1
	return e
}

// take returns the next n bytes, at most maxRun. They are valid until the
// next call.
func (w *window) take(n int) ([]byte, error) {
	if len(w.buf) < n {
		if err := w.fill(n); err != nil {
			return nil, err
		}
	}
	b := w.buf[:n]
	w.buf, w.off = w.buf[n:], w.off+int64(n)
	return b, nil
}

// fill reads on until buf holds n bytes or more.
func (w *window) fill(n int) error {
	if int64(n) > w.left() {
		return w.fail("the header needs %d bytes more here, but the file ends after %d: truncated", n, w.left())
	}
	have := len(w.buf)
	want := int(min(max(int64(n), min(max(w.off, minRun), maxRun)), w.left()))
	if w.read += int64(want - have); w.read > maxHeader {
		return recovery.Errorf(recovery.Unsupported, "a header of more than %d bytes", maxHeader)
	}
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
	w.buf = w.run
	return nil
}

// skip goes n bytes on, without reading them.
func (w *window) skip(n uint64) error {
	if n > uint64(w.left()) {
		return w.fail("%d bytes are claimed here, but the file ends after %d: truncated", n, w.left())
	}
	w.buf = w.buf[min(n, uint64(len(w.buf))):]
	w.off += int64(n)
	return nil
}

// skipStrings goes over n strings.
func (w *window) skipStrings(n uint64) error {
	for range n {
		if len(w.buf) < 8 {
			if err := w.fill(8); err != nil {
				return err
			}
		}
		length := binary.LittleEndian.Uint64(w.buf)
		if length <= uint64(len(w.buf)-8) { // most are in the window
			w.buf = w.buf[8+length:]
			w.off += 8 + int64(length)
			continue
		}
		if _, err := w.length(); err != nil {
			return err
		}
		if err := w.skip(length); err != nil {
			return err
		}
	}
	return nil
}

func (w *window) uint32() (uint32, error) {
	b, err := w.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (w *window) uint64() (uint64, error) {
	b, err := w.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// length reads the length of a string, which the file must hold.
func (w *window) length() (int64, error) {
	n, err := w.uint64()
	if err != nil {
		return 0, err
	}
	if n > maxString || n > uint64(w.left()) {
		return 0, w.failAt(w.off-8, "a string of %d bytes is claimed, but the file ends after %d, and at most %d are allowed", n, w.left(), maxString)
	}
	return int64(n), nil
}

// bytes reads n bytes, which the file holds, as a string.
func (w *window) bytes(n int64) (string, error) {
	var s strings.Builder
	s.Grow(int(n))
	for n > 0 {
		b, err := w.take(int(min(n, maxRun)))
		if err != nil {
			return "", err
		}
		s.Write(b)
		n -= int64(len(b))
	}
	return s.String(), nil
}

package source

import (
	"cmp"
	"context"
	"io"
	"strings"
)

// Streamer is a Reader that can be asked once for a long range, which then
// comes piece by piece: over a long link a request costs more than the bytes
// of a small read.
type Streamer interface {
	Reader
	// Stream returns the n bytes from off, in order. Its Read fails as ReadAt
	// does, and with io.EOF after the last byte only. It may hold a connection
	// and a turn of Concurrent until it is closed: whoever has one open must
	// not wait for another read of the same source.
	Stream(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

// Stream returns the n bytes from off of r, in order: with one request where
// r is a Streamer, else with a ReadAt for each Read.
func Stream(ctx context.Context, r Reader, off, n int64) (io.ReadCloser, error) {
	if s, ok := r.(Streamer); ok {
		return s.Stream(ctx, off, n)
	}
	return &reads{ctx: ctx, r: r, off: off, left: n}, nil
}

// Remote reports whether a URI names a source on another machine.
func Remote(uri string) bool {
	scheme, _, found := strings.Cut(uri, "://")
	_, remote := remotes[strings.ToLower(scheme)]
	return found && remote
}

// reads is a stream over a Reader that has none.
type reads struct {
	ctx       context.Context
	r         Reader
	off, left int64
}

func (s *reads) Read(p []byte) (int, error) {
	n := min(int64(len(p)), s.left)
	if n == 0 && s.left == 0 {
		return 0, io.EOF
	}
	if err := s.r.ReadAt(s.ctx, p[:n], s.off); err != nil {
		return 0, err
	}
	s.off, s.left = s.off+n, s.left-n
	return int(n), nil
}

func (s *reads) Close() error { return nil }

// passed is a stream with another Read and something to do at its end.
type passed struct {
	io.ReadCloser
	read  func(p []byte) (int, error) // nil is the stream's own
	close func()                      // nil is nothing
}

func (s *passed) Read(p []byte) (int, error) {
	if s.read == nil {
		return s.ReadCloser.Read(p)
	}
	return s.read(p)
}

func (s *passed) Close() error {
	err := s.ReadCloser.Close()
	if s.close != nil {
		s.close()
		s.close = nil
	}
	return err
}

// readStream is ReadAt for a reader whose own way is Stream.
func readStream(ctx context.Context, r Streamer, p []byte, off int64) error {
	s, err := r.Stream(ctx, off, int64(len(p)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(s, p)
	return cmp.Or(err, s.Close())
}

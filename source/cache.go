package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/recovery"
)

// cacheBlock is what is kept, checked and fetched as one. What a chunk's ends
// make it fetch besides is a thirtieth of a chunk at most.
const cacheBlock = 128 << 10

// Cached keeps what is read of a remote source in a folder, and reads it there
// the next time. A file is known by its identity: its content's digest on a
// hub, its URI and version elsewhere; one without a version is not kept. It is
// kept by blocks, each with its xxh3, so that what was cut off or has decayed
// is fetched again, and so that processes may use one folder at once: they
// write the same bytes to the same places. Nothing is ever removed.
func Cached(s Source, dir string) (Source, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fileError("make the cache", dir, err)
	}
	return cached{s, dir}, nil
}

type cached struct {
	Source
	dir string
}

func (s cached) Open(ctx context.Context, name string) (Reader, error) {
	r, err := s.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	key, ok := s.key(r.File())
	if !ok {
		return r, nil
	}
	c := &cachedReader{Reader: r}
	path := filepath.Join(s.dir, key)
	if c.data, err = os.OpenFile(path+".data", os.O_RDWR|os.O_CREATE, 0o666); err == nil {
		c.sums, err = os.OpenFile(path+".xxh3", os.O_RDWR|os.O_CREATE, 0o666)
	}
	if err != nil {
		return nil, errors.Join(fileError("open the cache", path, err), c.Close())
	}
	return c, nil
}

// key names a file's content; not ok where it is not known to stay the same.
func (s cached) key(f File) (string, bool) {
	id := f.ID + fmt.Sprintf(" %d bytes", f.Size)
	if !strings.HasPrefix(f.ID, "hub=") {
		folder := strings.TrimSuffix(s.URI(), s.Entry())
		id = folder + f.Name + " " + id
	}
	sum := sha256.Sum256([]byte("gantry cache 1 " + id))
	return hex.EncodeToString(sum[:16]), !strings.HasPrefix(f.ID, "size=")
}

// cachedReader reads blocks that are there from data, and fetches the others.
// sums holds 8 bytes for each block: its xxh3, or zero for one that is not
// there. A block is written before its sum.
type cachedReader struct {
	Reader
	data, sums *os.File
}

// Close closes what is open.
func (c *cachedReader) Close() error {
	err := c.Reader.Close()
	for _, f := range []*os.File{c.data, c.sums} {
		if f != nil {
			err = cmp.Or(err, f.Close())
		}
	}
	return err
}

// ReadAt implements Reader.
func (c *cachedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	return readStream(ctx, c, p, off)
}

// Stream implements Streamer.
func (c *cachedReader) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	size := c.File().Size
	if off < 0 || n <= 0 || off > size || n > size-off {
		return Stream(ctx, c.Reader, off, n) // which refuses, or has nothing to read
	}
	return &cachedStream{c: c, ctx: ctx, off: off, end: off + n, held: -1}, nil
}

// block returns a block's range in the file.
func (c *cachedReader) block(i int64) (start, stop int64) {
	return i * cacheBlock, min((i+1)*cacheBlock, c.File().Size)
}

// sum returns what a block's xxh3 should be, 0 where it is not there.
func (c *cachedReader) sum(i int64) uint64 {
	var b [8]byte
	if _, err := c.sums.ReadAt(b[:], 8*i); err != nil {
		return 0 // past the end: not there. Any other error: it is fetched
	}
	return binary.LittleEndian.Uint64(b[:])
}

// load reads a block that is there and reports whether it is right.
func (c *cachedReader) load(i int64, p []byte) bool {
	want := c.sum(i)
	if want == 0 {
		return false
	}
	_, err := c.data.ReadAt(p, i*cacheBlock)
	return err == nil && blockSum(p) == want
}

// store keeps a block.
func (c *cachedReader) store(i int64, p []byte) error {
	_, err := c.data.WriteAt(p, i*cacheBlock)
	if err == nil {
		_, err = c.sums.WriteAt(binary.LittleEndian.AppendUint64(nil, blockSum(p)), 8*i)
	}
	if err == nil {
		return nil
	}
	e := &recovery.Error{Class: recovery.OutOfCapacity, Op: "write the cache", File: c.data.Name(), Err: err, Hint: "make room there, or load without --cache"}
	return e
}

// blockSum is a block's xxh3, never 0.
func blockSum(p []byte) uint64 { return max(xxh3.Hash128(p).Lo, 1) }

// cachedStream reads block by block.
type cachedStream struct {
	c        *cachedReader
	ctx      context.Context
	off, end int64
	held     int64 // the block in buf, -1 for none
	buf      []byte
	from     io.ReadCloser // blocks that are not there, nil: not open
	next     int64         // the block that from gives next
	until    int64         // the block that it ends before
}

func (s *cachedStream) Read(p []byte) (int, error) {
	if s.off == s.end {
		return 0, io.EOF
	}
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	i := s.off / cacheBlock
	if i != s.held {
		if err := s.fill(i); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buf[s.off-i*cacheBlock:])
	n = int(min(int64(n), s.end-s.off))
	s.off += int64(n)
	return n, nil
}

// fill reads block i into the buffer.
func (s *cachedStream) fill(i int64) error {
	if s.buf == nil {
		s.buf = make([]byte, cacheBlock)
	}
	s.held = -1
	start, stop := s.c.block(i)
	s.buf = s.buf[:stop-start]
	if s.from != nil && s.next != i {
		if err := s.Close(); err != nil {
			return err
		}
	}
	if s.from == nil && s.c.load(i, s.buf) {
		s.held = i
		return nil
	}
	if s.from == nil {
		if err := s.open(i); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(s.from, s.buf); err != nil {
		return err
	}
	if s.next++; s.next == s.until {
		if err := s.Close(); err != nil {
			return err
		}
	}
	s.held = i
	return s.c.store(i, s.buf)
}

// open begins to fetch block i and those behind it that are not there.
func (s *cachedStream) open(i int64) (err error) {
	start, stop := s.c.block(i)
	s.next, s.until = i, i+1
	for stop < s.end && s.c.sum(s.until) == 0 {
		_, stop = s.c.block(s.until)
		s.until++
	}
	s.from, err = Stream(s.ctx, s.c.Reader, start, stop-start)
	return err
}

func (s *cachedStream) Close() error {
	if s.from == nil {
		return nil
	}
	from := s.from
	s.from = nil
	return from.Close()
}

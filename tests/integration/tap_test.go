package integration

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// tap serves a checkpoint of one file, counts what goes out of it, and can hold
// a part of it back.
type tap struct {
	URL string

	head   int64 // bytes of the file before its tensors' data
	served atomic.Int64
	held   atomic.Pointer[held]
}

// held are reads that wait: those that begin at one of some offsets in the file.
type held struct {
	at   map[int64]bool
	free chan struct{} // is closed when they may go on
}

// momentLasts is how long a load that is struck near its end waits for its last
// reads: without, what is under way at once may be the last twentieth.
const momentLasts = 500 * time.Millisecond

// nearEnd lets the last reads of a load wait for the returned function.
func nearEnd(t *testing.T, q *messages.LoadRequest) (release func()) {
	t.Helper()
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := newTap(t, at, eightMiB(t))
	q.URI = x.URL
	_, last := firstRank(t, q.Options)
	release = x.hold(last)
	t.Cleanup(release) // before the server closes, which waits for who reads
	return release
}

// firstRank plans a load of eightMiB. It returns the stored bytes of the chunks
// with a piece in the first rank, and where in the file the last of them begin,
// which have less than a twentieth of it.
func firstRank(t *testing.T, o shard.Options) (bytes int64, last map[int64]bool) {
	t.Helper()
	src, err := source.Open(t.Context(), eightMiB(t), source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := shard.Build(ix, o)
	if err != nil {
		t.Fatal(err)
	}
	last = map[int64]bool{}
	for _, c := range slices.Backward(plan.Chunks) {
		if c.Pieces[0].Rank != 0 {
			continue
		}
		if bytes += c.Stored(); bytes < 8<<20/20 {
			last[c.Offset] = true
		}
	}
	return bytes, last
}

// hold lets reads at offsets wait until the returned function is called.
func (x *tap) hold(at map[int64]bool) (release func()) {
	h := &held{at, make(chan struct{})}
	x.held.Store(h)
	return sync.OnceFunc(func() { close(h.free) })
}

// newTap serves a folder at a listener until the test ends.
func newTap(t *testing.T, at net.Listener, dir string) *tap {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size [8]byte
	if _, err := io.ReadFull(f, size[:]); err != nil {
		t.Fatal(err)
	}
	x := &tap{URL: "http://" + at.Addr().String() + "/", head: 8 + int64(binary.LittleEndian.Uint64(size[:]))}
	files := http.FileServer(http.Dir(dir))
	server := &httptest.Server{Listener: at, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, ".safetensors") && q.Method == http.MethodGet {
			at := int64(0)
			if _, err := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-", &at); err != nil {
				at = 0 // all of it
			}
			if h := x.held.Load(); h != nil && h.at[at] {
				select {
				case <-h.free:
				case <-q.Context().Done():
					return
				}
			}
			w = &counted{w, x, at}
		}
		files.ServeHTTP(w, q)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return x
}

// counted counts what is written from a place in the file on.
type counted struct {
	http.ResponseWriter
	tap *tap
	at  int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	if after := c.at + int64(n); after > c.tap.head {
		c.tap.served.Add(after - max(c.at, c.tap.head))
	}
	c.at += int64(n)
	return n, err
}

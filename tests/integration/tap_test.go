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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
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

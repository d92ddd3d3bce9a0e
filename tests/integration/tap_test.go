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
	"sync/atomic"
	"testing"
)

// tap serves a checkpoint of one file, and counts what goes out of it.
type tap struct {
	URL string

	head   int64 // bytes of the file before its tensors' data
	served atomic.Int64
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

package source_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
)

func TestCachedSource(t *testing.T) {
	cache := t.TempDir()
	for _, what := range []string{"empty", "filled"} {
		t.Run(what, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
				server := serve(t, http.FileServer(http.Dir(dir)).ServeHTTP)
				return open(t, server.URL+"/", source.Options{Names: sourcetest.Names(), Retry: quick, Cache: cache})
			})
		})
	}
}

// kept is a server of one file that counts what it sends, with a cache.
type kept struct {
	t    *testing.T
	uri  string
	dir  string // of the cache
	data []byte
	etag atomic.Pointer[string]
	sent atomic.Int64
}

func newKept(t *testing.T) *kept {
	k := &kept{t: t, dir: t.TempDir(), data: make([]byte, 1<<20+77)}
	_, _ = rand.NewChaCha8([32]byte{3}).Read(k.data) // cannot fail
	first := `"a"`
	k.etag.Store(&first)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", *k.etag.Load())
		http.ServeContent(sender{w, &k.sent}, r, "", time.Time{}, bytes.NewReader(k.data))
	})
	k.uri = server.URL + "/f.safetensors"
	return k
}

type sender struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (s sender) Write(p []byte) (int, error) {
	s.n.Add(int64(len(p)))
	return s.ResponseWriter.Write(p)
}

// read reads a range and returns how many bytes the server sent for it, the
// one byte that tells the file's size not counted.
func (k *kept) read(off, n int64) int64 {
	k.t.Helper()
	before := k.sent.Load()
	s := open(k.t, k.uri, source.Options{Retry: quick, Cache: k.dir})
	defer s.Close()
	r, err := s.Open(context.Background(), "f.safetensors")
	if err != nil {
		k.t.Fatal(err)
	}
	defer r.Close()
	stream, err := source.Stream(context.Background(), r, off, n)
	if err != nil {
		k.t.Fatal(err)
	}
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, k.data[off:off+n]) {
		k.t.Errorf("[%d, %d): wrong bytes, or %v", off, off+n, err)
	}
	if err := stream.Close(); err != nil {
		k.t.Error(err)
	}
	return k.sent.Load() - before - 1
}

func TestCacheKeeps(t *testing.T) {
	const block = 128 << 10
	k := newKept(t)
	size := int64(len(k.data))
	for _, c := range []struct {
		what   string
		off, n int64
		sent   int64
	}{
		{"a part of the second block", block + 10, 100, block},
		{"the same", block + 10, 100, 0},
		{"another part of it", 2*block - 1, 1, 0},
		{"all: what is not there, before it and behind", 0, size, size - block},
		{"all again", 0, size, 0},
		{"the end", size - 3, 3, 0},
	} {
		if got := k.read(c.off, c.n); got != c.sent {
			t.Errorf("%s: %d bytes sent, want %d", c.what, got, c.sent)
		}
	}
	// What has decayed is fetched again, and so is what was cut off.
	files, err := filepath.Glob(filepath.Join(k.dir, "*.data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	spoiled, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	spoiled[3*block+5] ^= 1
	if err := os.WriteFile(files[0], spoiled[:6*block-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := k.read(0, size), int64(block)+size-5*block; got != want {
		t.Errorf("decayed: %d bytes sent, want %d", got, want)
	}
	if got := k.read(0, size); got != 0 {
		t.Errorf("mended: %d bytes sent", got)
	}
	// Another version is another file.
	second := `"b"`
	k.etag.Store(&second)
	k.data[0]++
	if got := k.read(0, size); got != size {
		t.Errorf("another version: %d bytes sent, want %d", got, size)
	}
}

// TestCacheShared: several use one folder at once.
func TestCacheShared(t *testing.T) {
	k := newKept(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for off := int64(0); off < int64(len(k.data)); off += 100_000 {
				k.read(off, min(100_000, int64(len(k.data))-off))
			}
		})
	}
	wg.Wait()
	if got := k.read(0, int64(len(k.data))); got != 0 {
		t.Errorf("%d bytes sent for what is there", got)
	}
}

// TestCacheNever: without a version nothing is kept, and a folder that cannot
// be made is an error.
func TestCacheNever(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(payload))
	})
	s := open(t, server.URL+"/f.safetensors", source.Options{Retry: quick, Cache: dir})
	defer s.Close()
	if got, err := readHTTP(s); err != nil || got != "4567" {
		t.Errorf("%q, %v", got, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := source.Open(context.Background(), server.URL+"/f.safetensors", source.Options{Cache: filepath.Join(blocked, "cache")}); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("%v", err)
		if err == nil {
			s.Close()
		}
	}
}

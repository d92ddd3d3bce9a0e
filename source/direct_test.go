package source_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/source"
)

// blob writes a file of n random bytes, which are on the disk and not in
// memory.
func blob(t testing.TB, n int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // cannot fail
	path = filepath.Join(t.TempDir(), "f.safetensors")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	evict(t, path)
	return path, data
}

// evict puts a file's pages out of the page cache.
func evict(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// TestDirect reads ranges that begin and end anywhere, as they are aligned and
// as they are not, up to the file's last byte.
func TestDirect(t *testing.T) {
	path, data := blob(t, 5<<20+4097)
	n := int64(len(data))
	for _, mode := range []source.Mode{source.ModeDirect, source.ModeAuto} {
		s := open(t, path, source.Options{Mode: mode})
		r, err := s.Open(context.Background(), "f.safetensors")
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range [][2]int64{{0, n}, {0, 1 << 20}, {4096, 1<<20 + 4096}, {1, 1<<20 + 2}, {4095, n}, {n - 300_000, n}, {n - 3, n}, {1<<20 - 1, 3<<20 + 1}, {12345, 12345 + 128<<10}} {
			p := make([]byte, span[1]-span[0])
			if err := r.ReadAt(context.Background(), p, span[0]); err != nil || !bytes.Equal(p, data[span[0]:span[1]]) {
				t.Errorf("%s %v: wrong bytes, or %v", mode, span, err)
			}
		}
		if err := errors.Join(r.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestDirectLeavesNoPages: what is read directly is not in the page cache
// afterwards; what is read with pread is.
func TestDirectLeavesNoPages(t *testing.T) {
	for mode, want := range map[source.Mode]bool{source.ModeDirect: false, source.ModePread: true} {
		path, data := blob(t, 4<<20)
		s := open(t, path, source.Options{Mode: mode})
		r, err := s.Open(context.Background(), "f.safetensors")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.ReadAt(context.Background(), make([]byte, len(data)), 0); err != nil {
			t.Fatal(err)
		}
		look := open(t, path, source.Options{Mode: source.ModeAuto})
		l, err := look.Open(context.Background(), "f.safetensors")
		if err != nil {
			t.Fatal(err)
		}
		if got := l.(source.Mapper).Warm(0, int64(len(data))); got != want {
			t.Errorf("%s: in the page cache: %v, want %v", mode, got, want)
		}
		if err := errors.Join(r.Close(), s.Close(), l.Close(), look.Close()); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkCold reads a file that is not in memory, as a load does: two
// readers, half a MiB at a time.
func BenchmarkCold(b *testing.B) {
	const part = 512 << 10
	path, data := blob(b, 256<<20)
	for _, mode := range []source.Mode{source.ModePread, source.ModeDirect} {
		b.Run(string(mode), func(b *testing.B) {
			s := open(b, path, source.Options{Mode: mode})
			defer s.Close()
			r, err := s.Open(context.Background(), "f.safetensors")
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				b.StopTimer()
				evict(b, path)
				b.StartTimer()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						p := make([]byte, part)
						// 1000: tensors lie where headers end.
						for at := next.Add(part) - part + 1000; at+part <= int64(len(data)); at = next.Add(part) - part + 1000 {
							if err := r.ReadAt(context.Background(), p, at); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

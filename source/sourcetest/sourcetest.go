// Package sourcetest holds the tests that every source.Source must pass,
// decorated or not.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// content is the folder that a source is opened on, by name.
func content() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 3<<20+17)
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	return map[string][]byte{"model.safetensors": big, "config.json": []byte("{}\n"), "empty": {}, "ünï código.txt": []byte("x")}
}

// Names are those of the files of Run's folder, for sources that cannot list.
func Names() []string { return slices.Collect(maps.Keys(content())) }

// Run opens sources on a folder with open, which must end the test where it
// cannot, and holds them to the contract of source.Source.
func Run(t *testing.T, open func(t *testing.T, dir string) source.Source) {
	files := content()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Run("Files", func(t *testing.T) { testFiles(t, s, files) })
	t.Run("ReadAt", func(t *testing.T) { testReadAt(t, s, files) })
	t.Run("Ranges", func(t *testing.T) { testRanges(t, s) })
	t.Run("Stream", func(t *testing.T) { testStream(t, s, files) })
	t.Run("Concurrent", func(t *testing.T) { testConcurrent(t, s, files) })
	t.Run("Names", func(t *testing.T) { testNames(t, s) })
	t.Run("Cancelled", func(t *testing.T) { testCancelled(t, s) })
}

func testFiles(t *testing.T, s source.Source, files map[string][]byte) {
	if s.Entry() != "" {
		t.Errorf("the entry of a folder is %q", s.Entry())
	}
	list, err := s.Files(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(files) || !slices.IsSortedFunc(list, func(a, b source.File) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }) {
		t.Errorf("listed %v", list)
	}
	for _, f := range list {
		if f.Size != int64(len(files[f.Name])) || f.ID == "" {
			t.Errorf("listed %+v, has %d bytes", f, len(files[f.Name]))
		}
		if r := openFile(t, s, f.Name); r.File() != f {
			t.Errorf("listed %+v, opened %+v", f, r.File())
		}
	}
}

func openFile(t *testing.T, s source.Source, name string) source.Reader {
	t.Helper()
	r, err := s.Open(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	})
	return r
}

func testReadAt(t *testing.T, s source.Source, files map[string][]byte) {
	for name, data := range files {
		r := openFile(t, s, name)
		n := int64(len(data))
		for _, span := range [][2]int64{{0, n}, {0, 0}, {n, n}, {0, min(1, n)}, {max(n-1, 0), n}, {n / 3, n / 2}} {
			p := make([]byte, span[1]-span[0])
			if err := r.ReadAt(context.Background(), p, span[0]); err != nil {
				t.Errorf("%s %v: %v", name, span, err)
			} else if !bytes.Equal(p, data[span[0]:span[1]]) {
				t.Errorf("%s %v: wrong bytes", name, span)
			}
		}
		m, ok := r.(source.Mapper)
		if !ok {
			continue
		}
		if p, err := m.Range(n/3, n/3); err != nil || !bytes.Equal(p, data[n/3:n/3+n/3]) {
			t.Errorf("%s: range gave wrong bytes (%v)", name, err)
		}
		if err := m.Verify(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testRanges(t *testing.T, s source.Source) {
	r := openFile(t, s, "model.safetensors")
	n := r.File().Size
	for _, span := range [][2]int64{{n, 1}, {n - 1, 2}, {n + 1, 0}, {-1, 1}, {1 << 62, 1}} {
		err := r.ReadAt(context.Background(), make([]byte, span[1]), span[0])
		if recovery.ClassOf(err) != recovery.SourceChanged {
			t.Errorf("%d bytes at %d of %d: got %v, want source_changed", span[1], span[0], n, err)
		}
		if m, ok := r.(source.Mapper); ok {
			if _, err := m.Range(span[0], span[1]); recovery.ClassOf(err) != recovery.SourceChanged {
				t.Errorf("range of %d bytes at %d of %d: got %v, want source_changed", span[1], span[0], n, err)
			}
		}
	}
}

func testStream(t *testing.T, s source.Source, files map[string][]byte) {
	for name, data := range files {
		r := openFile(t, s, name)
		n := int64(len(data))
		for _, span := range [][2]int64{{0, n}, {0, 0}, {n, n}, {max(n-1, 0), n}, {n / 3, n / 2}} {
			stream, err := source.Stream(context.Background(), r, span[0], span[1]-span[0])
			if err != nil {
				t.Fatalf("%s %v: %v", name, span, err)
			}
			// One byte more than a page, so that reads end anywhere.
			got, err := io.ReadAll(pieces{stream, 4097})
			if err != nil || !bytes.Equal(got, data[span[0]:span[1]]) {
				t.Errorf("%s %v: %d bytes, %v", name, span, len(got), err)
			}
			if err := stream.Close(); err != nil {
				t.Errorf("%s %v: close: %v", name, span, err)
			}
		}
	}
	r := openFile(t, s, "model.safetensors")
	n := r.File().Size
	for _, span := range [][2]int64{{n, 1}, {n - 1, 2}, {-1, 1}, {1, 1 << 62}} {
		stream, err := source.Stream(context.Background(), r, span[0], span[1])
		if err == nil {
			_, err = io.ReadAll(stream)
			stream.Close()
		}
		if recovery.ClassOf(err) != recovery.SourceChanged {
			t.Errorf("%d bytes at %d of %d: got %v, want source_changed", span[1], span[0], n, err)
		}
	}
	testStreamLeft(t, r)
}

// testStreamLeft leaves streams before their end: given up, and cancelled.
func testStreamLeft(t *testing.T, r source.Reader) {
	for range 40 { // more than any source has turns
		stream, err := source.Stream(context.Background(), r, 0, r.File().Size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 10)); err != nil {
			t.Error(err)
		}
		if err := stream.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := source.Stream(ctx, r, 0, r.File().Size)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(stream); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := stream.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// pieces reads at most n bytes at a time.
type pieces struct {
	r io.Reader
	n int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

func testConcurrent(t *testing.T, s source.Source, files map[string][]byte) {
	data := files["model.safetensors"]
	r := openFile(t, s, "model.safetensors")
	const parts = 16
	got := make([]byte, len(data))
	var wg sync.WaitGroup
	for i := range parts {
		from, to := i*len(data)/parts, (i+1)*len(data)/parts
		wg.Go(func() {
			if err := r.ReadAt(context.Background(), got[from:to], int64(from)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(got, data) {
		t.Error("wrong bytes")
	}
}

func testNames(t *testing.T, s source.Source) {
	for name, want := range map[string]recovery.Class{
		"missing":               recovery.NotFound,
		"folder/missing":        recovery.NotFound,
		"config.json/x":         recovery.NotFound,
		"folder":                recovery.NotAllowed,
		"":                      recovery.NotAllowed,
		".":                     recovery.NotAllowed,
		"..":                    recovery.NotAllowed,
		"../x":                  recovery.NotAllowed,
		"folder/../../x":        recovery.NotAllowed,
		"folder/../config.json": recovery.NotAllowed,
		"/etc/hostname":         recovery.NotAllowed,
		"a\x00b":                recovery.NotAllowed,
		"..\\x":                 recovery.NotAllowed,
	} {
		r, err := s.Open(context.Background(), name)
		if err == nil {
			r.Close()
		}
		if recovery.ClassOf(err) != want {
			t.Errorf("open %q: got %v, want %s", name, err, want)
		}
	}
}

func testCancelled(t *testing.T, s source.Source) {
	ctx, cancel := context.WithCancel(context.Background())
	r := openFile(t, s, "config.json")
	cancel()
	if err := r.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Files(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("files: %v", err)
	}
	if r, err := s.Open(ctx, "config.json"); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
		if err == nil {
			r.Close()
		}
	}
}

package source_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// tree writes files ("path": "text") and links ("path": "-> target") into a
// new folder, which it returns with all links resolved.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(strings.ReplaceAll(target, "DIR", dir), path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readFile(s source.Source, name string) (string, error) {
	r, err := s.Open(context.Background(), name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	p := make([]byte, r.File().Size)
	err = r.ReadAt(context.Background(), p, 0)
	return string(p), err
}

// TestReach says which files can be reached from what was named: by links out
// of the folder none, but for the entry itself and a Hugging Face cache.
func TestReach(t *testing.T) {
	dir := tree(t, map[string]string{
		"m/model.safetensors":  "own",
		"m/inside":             "-> model.safetensors",
		"m/absolute":           "-> DIR/m/model.safetensors",
		"m/out":                "-> ../other/secret",
		"m/up":                 "-> ..",
		"m/dangling":           "-> nothing",
		"m/loop":               "-> loop",
		"m/sub/shard":          "below",
		"other/secret":         "secret",
		"other/entry":          "-> ../m/model.safetensors",
		"other/model":          "-> ../m",
		"hub/blobs/abc":        "blob",
		"hub/refs/main":        "rev",
		"hub/snapshots/rev/w":  "-> ../../blobs/abc",
		"hub/snapshots/rev/x":  "-> ../../../other/secret",
		"fake/snapshots/rev/w": "-> ../../blob",
		"fake/blob":            "no cache",
	})
	for _, c := range []struct {
		uri, name, want string // what is read, or an error's class
	}{
		{"m", "model.safetensors", "own"},
		{"m", "inside", "own"},
		{"m", "sub/shard", "below"},
		{"m", "out", "not_allowed"},
		{"m", "up/other/secret", "not_allowed"},
		{"m", "absolute", "not_allowed"},
		{"m", "dangling", "not_found"},
		{"m", "loop", "not_allowed"},
		{"other/model", "model.safetensors", "own"},
		{"other/entry", "entry", "own"},
		{"other/entry", "secret", "secret"},
		{"m/out", "out", "secret"},
		{"m/model.safetensors", "out", "not_allowed"},
		{"hub/snapshots/rev", "w", "blob"},
		{"hub/snapshots/rev/w", "w", "blob"},
		{"hub/snapshots/rev", "x", "not_allowed"},
		{"fake/snapshots/rev", "w", "not_allowed"},
	} {
		t.Run(c.uri+":"+c.name, func(t *testing.T) {
			s := open(t, filepath.Join(dir, c.uri), source.Options{})
			defer s.Close()
			got, err := readFile(s, c.name)
			if err != nil {
				got = string(recovery.ClassOf(err))
			}
			if got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

// TestListLinks lists a link that may not be followed without what is behind
// it, and one that leads nowhere not at all.
func TestListLinks(t *testing.T) {
	dir := tree(t, map[string]string{"m/a": "text", "m/b": "-> a", "m/out": "-> ../secret", "m/gone": "-> nothing", "secret": "secret"})
	s := open(t, filepath.Join(dir, "m"), source.Options{})
	defer s.Close()
	files, err := s.Files(context.Background())
	if err != nil || len(files) != 3 {
		t.Fatalf("listed %v, %v", files, err)
	}
	if files[0].Size != 4 || files[1].Size != 4 || files[2] != (source.File{Name: "out"}) {
		t.Errorf("listed %+v", files)
	}
}

// TestRoots opens files on a server that allows one folder.
func TestRoots(t *testing.T) {
	dir := tree(t, map[string]string{
		"models/a/model.safetensors": "a",
		"models/entry":               "-> ../secret/model.safetensors",
		"models/folder":              "-> ../secret",
		"models2/model.safetensors":  "sibling",
		"secret/model.safetensors":   "secret",
		"link":                       "-> models",
		"models/hub/blobs/x":         "blob",
		"models/hub/snapshots/r/w":   "-> ../../blobs/x",
	})
	roots := []string{filepath.Join(dir, "link")} // itself a link
	for uri, want := range map[string]recovery.Class{
		"models/a":                   "",
		"models":                     "",
		"link/a/model.safetensors":   "",
		"models/hub/snapshots/r/w":   "",
		"models/missing":             recovery.NotFound,
		"models/entry":               recovery.NotAllowed,
		"models/folder":              recovery.NotAllowed,
		"models/../secret":           recovery.NotAllowed,
		"models2/model.safetensors":  recovery.NotAllowed,
		"secret":                     recovery.NotAllowed,
		"secret/missing":             recovery.NotAllowed, // not told apart
		".":                          recovery.NotAllowed,
		"models/a/model.safetensors": "",
	} {
		s, err := source.Open(context.Background(), dir+"/"+uri, source.Options{Roots: roots})
		if err == nil {
			s.Close()
		}
		if recovery.ClassOf(err) != want {
			t.Errorf("%s: got %v, want %q", uri, err, want)
		}
	}
	if _, err := source.Open(context.Background(), dir, source.Options{Roots: []string{dir + "/missing"}}); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("a root that is not there: %v", err)
	}
}

// TestOpenErrors gives each wrong URI its class and one line.
func TestOpenErrors(t *testing.T) {
	dir := tree(t, map[string]string{"model.safetensors": "x"})
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uri  string
		want recovery.Class
	}{
		{"", recovery.Usage},
		{dir + "/missing", recovery.NotFound},
		{dir + "/model.safetensors/x", recovery.NotFound},
		{dir + "/pipe", recovery.NotAllowed},
		{"a\x00b", recovery.Usage},
		{"file://" + dir + "/%00", recovery.Usage},
		{"file://host/model", recovery.Usage},
		{"file://", recovery.Usage},
		{"https://user:secret@example.com/model?token=secret", recovery.Usage},
		{"gs://bucket/model", recovery.Unsupported},
		{"hf://model", recovery.Usage},
		{"hf://org/model@../x", recovery.Usage},
		{"file://" + dir, ""},
		{"file://localhost" + dir + "/model.safetensors", ""},
	} {
		s, err := source.Open(context.Background(), c.uri, source.Options{})
		if err == nil {
			s.Close()
		}
		if recovery.ClassOf(err) != c.want {
			t.Errorf("%q: got %v, want %q", c.uri, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %q is not one line without secrets", c.uri, err)
		}
	}
	if _, err := source.Open(context.Background(), dir, source.Options{Mode: "dma"}); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("unknown mode: %v", err)
	}
}

// TestURI opens again, from elsewhere, what a relative path named.
func TestURI(t *testing.T) {
	dir := tree(t, map[string]string{"a b%/model.safetensors": "x"})
	t.Chdir(dir)
	s := open(t, "a b%/model.safetensors", source.Options{})
	defer s.Close()
	t.Chdir("/")
	again := open(t, s.URI(), source.Options{})
	defer again.Close()
	if s.URI() != again.URI() || again.Entry() != "model.safetensors" {
		t.Errorf("%s, then %s with entry %q", s.URI(), again.URI(), again.Entry())
	}
}

// TestChanged writes to, cuts and replaces a file while it is open.
func TestChanged(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 1024)
	for _, mode := range []source.Mode{source.ModeAuto, source.ModePread, source.ModeMmap} {
		for name, c := range map[string]struct {
			change func(path string) error
			want   recovery.Class
		}{
			"written": {func(p string) error {
				return os.Chtimes(p, time.Time{}, time.Now().Add(time.Hour))
			}, recovery.SourceChanged},
			"cut":   {func(p string) error { return os.Truncate(p, 100) }, recovery.SourceChanged},
			"grown": {func(p string) error { return os.Truncate(p, 1<<20) }, recovery.SourceChanged},
			"replaced": {func(p string) error {
				if err := os.WriteFile(p+".new", []byte("new"), 0o600); err != nil {
					return err
				}
				return os.Rename(p+".new", p)
			}, ""}, // what was opened is still all there
		} {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				dir := tree(t, map[string]string{"f": text})
				s := open(t, dir, source.Options{Mode: mode})
				defer s.Close()
				r, err := s.Open(context.Background(), "f")
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if err := c.change(filepath.Join(dir, "f")); err != nil {
					t.Fatal(err)
				}
				p := make([]byte, len(text))
				if err := r.ReadAt(context.Background(), p, 0); recovery.ClassOf(err) != c.want {
					t.Errorf("read: got %v, want %q", err, c.want)
				}
				if m, ok := r.(source.Mapper); ok {
					if err := m.Verify(); recovery.ClassOf(err) != c.want {
						t.Errorf("verify: got %v, want %q", err, c.want)
					}
				}
			})
		}
	}
}

// mapped returns a folder with a file f of 1 MiB that was just written, and the
// file mapped.
func mapped(t *testing.T) (dir string, m source.Mapper) {
	t.Helper()
	dir = tree(t, map[string]string{"f": strings.Repeat("0123456789abcdef", 1<<16)})
	s := open(t, dir, source.Options{})
	t.Cleanup(func() { s.Close() })
	r, err := s.Open(context.Background(), "f")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return dir, r.(source.Mapper)
}

// TestPrepare: whatever is prepared, the bytes are there, without a fault.
func TestPrepare(t *testing.T) {
	_, m := mapped(t)
	p, err := m.Range(0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Madvise(p, unix.MADV_POPULATE_READ); errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no call to map pages: 5.14 has")
	}
	if err := unix.Madvise(p, unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	for _, span := range [][2]int64{{12345, 67890}, {5, 6}, {1 << 20, 0}, {-1, 10}, {1<<20 - 5, 10}, {1 << 62, 1 << 62}, {0, 1 << 20}} {
		m.Prepare(span[0], span[1])
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	sum := 0
	err = unix.Getrusage(unix.RUSAGE_THREAD, &before)
	for _, b := range p {
		sum += int(b)
	}
	if err := errors.Join(err, unix.Getrusage(unix.RUSAGE_THREAD, &after)); err != nil {
		t.Fatal(err)
	}
	if want := int(10*'0'+45+6*'a'+15) << 16; sum != want {
		t.Errorf("the bytes' sum is %d, want %d", sum, want)
	}
	// Faults map 64 KiB each.
	if n := after.Minflt - before.Minflt; n >= 8 {
		t.Errorf("%d page faults: nothing was prepared", n)
	}
}

// TestWarm: what was just written is in memory; what the kernel was told to
// forget is not, and a range outside the file never is.
func TestWarm(t *testing.T) {
	dir, m := mapped(t)
	if !m.Warm(0, 1<<20) || !m.Warm(12345, 678) {
		t.Error("a file that was just written is not warm")
	}
	if m.Warm(-1, 10) || m.Warm(1<<20-5, 10) {
		t.Error("a range that leaves the file is warm")
	}
	f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC { // memory is all it has
		t.Log("the temporary folder is in memory: nothing can be dropped")
	} else if m.Warm(0, 1<<20) {
		t.Error("a file that the kernel dropped is warm")
	}
	p := make([]byte, 16)
	if err := m.ReadAt(context.Background(), p, 1<<20-16); err != nil || string(p) != "0123456789abcdef" {
		t.Errorf("read %q, %v", p, err)
	}
}

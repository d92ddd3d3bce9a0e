package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// FuzzNames: a name that is valid stays below the folder whatever joins it,
// and opening any name gives a file of the folder or an error that is one
// line.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "a/b", "in", "link", "up/secret", "../secret", "/etc/passwd", "a/../../secret", "..", ".", "", "a//b", "a\\..\\b", "a\x00b", "./in", "in/", "\xff"} {
		f.Add(s)
	}
	parent := f.TempDir()
	dir := filepath.Join(parent, "model")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "in"), []byte("inside"), 0o600),
		os.WriteFile(filepath.Join(parent, "secret"), []byte("outside"), 0o600),
		os.Symlink("../secret", filepath.Join(dir, "link")), os.Symlink("..", filepath.Join(dir, "up")), os.Symlink("in", filepath.Join(dir, "a"))); err != nil {
		f.Fatal(err)
	}
	src, err := Open(context.Background(), dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { src.Close() })
	f.Fuzz(func(t *testing.T, name string) {
		if ValidName(name) {
			full := filepath.Join(dir, name)
			if full == dir || !strings.HasPrefix(full, dir+"/") || strings.TrimPrefix(full, dir+"/") != name {
				t.Errorf("%q is valid, and leads to %q", name, full)
			}
		}
		r, err := src.Open(context.Background(), name)
		if err != nil {
			if !ValidName(name) && recovery.ClassOf(err) != recovery.NotAllowed || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%q: class %q, %v", name, recovery.ClassOf(err), err)
			}
			return
		}
		b := make([]byte, r.File().Size)
		if err := errors.Join(r.ReadAt(context.Background(), b, 0), r.Close()); err != nil || string(b) != "inside" {
			t.Errorf("%q opens a file that says %q (%v)", name, b, err)
		}
	})
}

// TestNameInside keeps a checkpoint's paths inside its folder.
func TestNameInside(t *testing.T) {
	for location, want := range map[string]string{
		"weights.bin": "weights.bin", "a/b.bin": "a/b.bin", "./w": "w", "a//w": "a/w", "a/./w": "a/w", "w..": "w..", "..w": "..w", "C:w": "C:w", "...": "...",
		"": "", "/w": "", "//w": "", "..": "", "../w": "", "a/../w": "", "a/../../w": "", "a/..": "", ".": "", "./": "", "a\\..\\w": "", "\\w": "", "w\x00": "",
		"*/_ORT_MEM_ADDR_/*": "*/_ORT_MEM_ADDR_/*", // a name like others: there is no such file
	} {
		got, ok := NameInside(location)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", location, got, want)
		}
	}
}

// FuzzNameInside: what passes as a location is the name of a file below the folder.
func FuzzNameInside(f *testing.F) {
	for _, s := range []string{"w", "./w", "../w", "/w", "a/../w", "a//w", "a\\w", "", "w\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, location string) {
		if name, ok := NameInside(location); ok && (!filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." || strings.Contains(location, "\\")) {
			t.Errorf("%q passes as %q", location, name)
		}
	})
}

package outfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// names lists a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// TestAppearsWhole: until Commit the name stays what it was, and two writers of
// one name do not disturb each other.
func TestAppearsWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first, err := Create(path, 5)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Create(path, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WriteAt([]byte("ew"), 3); err != nil {
		t.Fatal(err)
	}
	if err := second.WriteAt([]byte("2nd"), 0); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "old" {
		t.Errorf("before it is committed the file holds %q", got)
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "\x00\x00\x00ew" {
		t.Errorf("committed, the file holds %q", got)
	}
	if err := second.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "x" {
		t.Errorf("the folder holds %s, want x only", got)
	}
	if err := Write(path, []byte("whole")); err != nil || read() != "whole" {
		t.Errorf("Write: %v, %q", err, read())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o600 != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestParts: a second writer opens what the first began, by its temporary name.
func TestParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	temp := path + ".job.tmp"
	if _, err := Open(temp, path); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("opened before it is there: %v", err)
	}
	a, err := CreateAs(temp, path, 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateAs(temp, path, 4); err == nil {
		t.Error("begun twice under one temporary name")
	}
	b, err := Open(temp, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return a.WriteAt([]byte("ab"), 0) },
		func() error { return b.WriteAt([]byte("cd"), 2) },
		b.Close, a.Commit,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "abcd" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRefusals: what the system refuses is classified and names the file, not
// the temporary one, and nothing is left behind.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	over, err := Create(filepath.Join(dir, "taken"), 1)
	if err != nil {
		t.Fatal(err)
	}
	_, missing := Create(filepath.Join(dir, "no", "x"), 1)
	_, large := Create(filepath.Join(dir, "x"), 1<<62)
	for _, c := range []struct {
		err  error
		want recovery.Class
		file string
	}{
		{missing, recovery.NotFound, filepath.Join(dir, "no", "x")},
		{large, recovery.OutOfCapacity, filepath.Join(dir, "x")},
		{over.Commit(), recovery.Unavailable, filepath.Join(dir, "taken")},
	} {
		if recovery.ClassOf(c.err) != c.want || !strings.Contains(c.err.Error(), c.file) || strings.Contains(c.err.Error(), "tmp") && !strings.Contains(dir, "tmp") {
			t.Errorf("%v: class %s, want %s and the file %s", c.err, recovery.ClassOf(c.err), c.want, c.file)
		}
	}
	if got := names(t, dir); got != "taken" {
		t.Errorf("the folder holds %s, want taken only", got)
	}
}

// TestWithin: links are followed before a path is judged, also those on the way
// to what is not there yet.
func TestWithin(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for link, to := range map[string]string{"out": outside, "in": root, "broken": filepath.Join(outside, "no")} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]recovery.Class{
		root:                                "",
		filepath.Join(root, "a", "b"):       "",
		filepath.Join(root, "in", "a"):      "",
		filepath.Join(root, "a", "..", "b"): "",
		root + "x":                          recovery.NotAllowed,
		filepath.Join(root, ".."):           recovery.NotAllowed,
		filepath.Join(root, "out", "a"):     recovery.NotAllowed,
		filepath.Join(root, "out"):          recovery.NotAllowed,
		filepath.Join(root, "broken"):       recovery.NotFound,
		outside:                             recovery.NotAllowed,
		"relative":                          recovery.Usage,
	} {
		if err := Within([]string{filepath.Join(root, "..", filepath.Base(root))}, path); recovery.ClassOf(err) != want {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := Within(nil, root); recovery.ClassOf(err) != recovery.NotAllowed {
		t.Errorf("without folders: %v", err)
	}
	if err := Within([]string{"/"}, outside); err != nil {
		t.Errorf("everywhere: %v", err)
	}
}

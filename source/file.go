package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// local is a folder on this machine, or one file and what lies beside it.
//
// What a name may reach: names are clean relative paths, and every step of
// them, links included, must stay under confine (os.Root holds that even
// while somebody changes the folder). confine is the folder itself or, for a
// snapshot in a Hugging Face cache, the repository's folder, because its files
// are links to ../../blobs. Only the entry, which the user named himself, may
// be a link to anywhere, within the allowed roots.
type local struct {
	path      string // absolute, as named: for messages and the URI
	dir       string // the folder, as named
	entry     string // file name, or ""
	entryPath string // the entry with all links resolved
	confine   *os.Root
	below     string // the folder, relative to confine: "." or "snapshots/REV"
	mode      Mode
}

func openLocal(path string, o Options) (Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fileError("open", path, err)
	}
	allow, err := newAllowed(o.Roots)
	if err != nil {
		return nil, err
	}
	// A name outside the roots is refused before it is looked at, so that the
	// answer does not tell whether it exists.
	if !allow.named(abs) {
		return nil, outside(abs)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fileError("open", abs, err)
	}
	if !allow.resolved(real) {
		return nil, outside(abs)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fileError("open", abs, err)
	}
	s := &local{path: abs, dir: abs, mode: o.Mode}
	realDir := real
	switch {
	case info.IsDir():
	case info.Mode().IsRegular():
		s.dir, s.entry, s.entryPath = filepath.Dir(abs), filepath.Base(abs), real
		if realDir, err = filepath.EvalSymlinks(s.dir); err != nil {
			return nil, fileError("open", abs, err)
		}
		if !allow.resolved(realDir) {
			return nil, outside(abs)
		}
	default:
		return nil, notRegular(abs)
	}
	top, below := realDir, "."
	if repo, ok := hubRepository(realDir); ok && allow.resolved(repo) {
		top, below = repo, filepath.Join("snapshots", filepath.Base(realDir))
	}
	if s.confine, err = os.OpenRoot(top); err != nil {
		return nil, fileError("open", abs, err)
	}
	s.below = below
	return s, nil
}

// hubRepository reports whether dir is a snapshot of a Hugging Face cache
// (models--ORG--NAME/snapshots/REV, beside models--ORG--NAME/blobs), and
// returns the repository's folder.
func hubRepository(dir string) (string, bool) {
	snapshots := filepath.Dir(dir)
	repo := filepath.Dir(snapshots)
	if filepath.Base(snapshots) != "snapshots" {
		return "", false
	}
	info, err := os.Lstat(filepath.Join(repo, "blobs"))
	return repo, err == nil && info.IsDir()
}

func (s *local) URI() string   { return (&url.URL{Scheme: "file", Path: s.path}).String() }
func (s *local) Entry() string { return s.entry }
func (s *local) Close() error  { return s.confine.Close() }

// Files lists regular files and links to them. A link that may not be
// followed is listed without size and ID, so that Open can say what is wrong
// with it.
func (s *local) Files(ctx context.Context) ([]File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := s.confine.Open(s.below)
	if err != nil {
		return nil, fileError("list", s.dir, err)
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, fileError("list", s.dir, err)
	}
	files := make([]File, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		info, err := s.stat(e.Name())
		switch {
		case err == nil && info.Mode().IsRegular():
			files = append(files, describe(e.Name(), info))
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			files = append(files, File{Name: e.Name()})
		}
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return files, nil
}

func (s *local) stat(name string) (fs.FileInfo, error) {
	if name == s.entry {
		return os.Stat(s.entryPath)
	}
	return s.confine.Stat(filepath.Join(s.below, name))
}

// Open opens a file of the folder.
func (s *local) Open(ctx context.Context, name string) (Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !ValidName(name) {
		return nil, leaves(s.dir, name)
	}
	full := filepath.Join(s.dir, name)
	f, err := s.open(name)
	if err != nil {
		return nil, fileError("open", full, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		f.Close()
		return nil, notRegular(full)
	}
	if err != nil {
		f.Close()
		return nil, fileError("open", full, err)
	}
	p := &pread{file: describe(name, info), path: full, f: f}
	if s.mode == ModePread || !mappable(f) {
		return p, nil
	}
	if s.mode == ModeDirect {
		p.cold = openDirect(f)
		return p, nil
	}
	return mapFile(p, s.mode == ModeMmap)
}

func (s *local) open(name string) (*os.File, error) {
	// O_NONBLOCK: opening a named pipe must not wait for a writer.
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if name == s.entry {
		return os.OpenFile(s.entryPath, flags, 0)
	}
	return s.confine.OpenFile(filepath.Join(s.below, name), flags, 0)
}

// ValidName reports whether name may name a file of a source: a clean,
// relative, slash-separated path without "..", that no rule of any file
// system turns into another.
func ValidName(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.ContainsAny(name, "\\\x00")
}

// NameInside returns the name of the file that a checkpoint's path means, seen
// from its folder: ./weights.bin is weights.bin. Nothing that begins with a
// slash or goes up is one, wherever it would end.
func NameInside(location string) (name string, ok bool) {
	if location == "" || path.IsAbs(location) || slices.Contains(strings.Split(location, "/"), "..") {
		return "", false
	}
	name = path.Clean(location)
	return name, ValidName(name)
}

// describe says what a file is. Its ID changes when the file is replaced,
// written to or cut short.
func describe(name string, info fs.FileInfo) File {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return File{
		Name: name,
		Size: info.Size(),
		ID:   fmt.Sprintf("mtime=%d,inode=%d,size=%d", info.ModTime().UnixNano(), inode, info.Size()),
	}
}

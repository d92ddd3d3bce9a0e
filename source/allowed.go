package source

import (
	"path/filepath"
	"strings"
)

// allowed is the set of folders that a server may read; the zero value allows
// everything.
type allowed struct {
	roots []string // absolute and clean, as configured
	real  []string // the same with all links resolved
}

func newAllowed(roots []string) (allowed, error) {
	var a allowed
	for _, r := range roots {
		abs, err := filepath.Abs(r)
		if err != nil {
			return allowed{}, fileError("open model root", r, err)
		}
		real, err := filepath.EvalSymlinks(abs)
		if err != nil {
			return allowed{}, fileError("open model root", abs, err)
		}
		a.roots, a.real = append(a.roots, abs), append(a.real, real)
	}
	return a, nil
}

// named reports whether a path as somebody wrote it may be looked at.
func (a allowed) named(path string) bool {
	return len(a.roots) == 0 || underAny(a.roots, path) || underAny(a.real, path)
}

// resolved reports whether a path without links may be read.
func (a allowed) resolved(path string) bool {
	return len(a.roots) == 0 || underAny(a.real, path)
}

func underAny(roots []string, path string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, strings.TrimSuffix(r, "/")+"/") {
			return true
		}
	}
	return false
}

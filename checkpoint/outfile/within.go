package outfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Within reports, with class not_allowed, a path that lies in none of the given
// folders, links followed; without folders, any. It is for processes that write
// where others ask them to. The path is absolute; it and folders towards it
// need not be there yet.
func Within(folders []string, path string) error {
	refuse := func(why, hint string) error {
		return &recovery.Error{Class: recovery.NotAllowed, Op: "write", File: path, Err: errors.New(why), Hint: hint}
	}
	if !filepath.IsAbs(path) {
		return &recovery.Error{Class: recovery.Usage, Op: "write", File: path, Err: errors.New("not an absolute path")}
	}
	if len(folders) == 0 {
		return refuse("this worker writes no exports", "start it with --export-root")
	}
	real, err := resolved(filepath.Clean(path))
	if err != nil {
		return writeError(path, err)
	}
	for _, f := range folders {
		root, err := filepath.Abs(f)
		if err != nil {
			return writeError(f, err)
		}
		if root, err = resolved(root); err != nil {
			return writeError(f, err)
		}
		if real == root || strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
			return nil
		}
	}
	return refuse("it lies outside of the folders that this worker may write to", "see its --export-root")
}

// resolved follows the links of the part of a path that is there.
func resolved(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) || path == "/" {
		return real, err
	}
	// A link that leads nowhere would be followed by whoever writes.
	if _, lerr := os.Lstat(path); lerr == nil {
		return "", err
	}
	parent, err := resolved(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

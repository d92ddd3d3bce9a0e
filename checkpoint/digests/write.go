package digests

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// New reads a checkpoint's files and returns their digests.
func New(ctx context.Context, src source.Source, ix *checkpoint.Index) (*Set, error) {
	src = checkpoint.WithValues(src)
	files, tensors := make([]File, len(ix.Files)), make([][]Tensor, len(ix.Files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range ix.Files {
		g.Go(func() (err error) {
			files[i], tensors[i], err = Scan(ctx, src, ix, i, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return Join(files, tensors), nil
}

// Join makes a set of what Scan returned for each file.
func Join(files []File, tensors [][]Tensor) *Set {
	s := &Set{Format: format, BlockBytes: BlockBytes, Files: files, Tensors: []Tensor{}}
	for _, t := range tensors {
		s.Tensors = append(s.Tensors, t...)
	}
	return s.indexed()
}

// WriteBeside reads the checkpoint at a local path, a folder or a file, and
// writes its digests beside it. What the file there says of other files of the
// folder stays.
func WriteBeside(ctx context.Context, path string) (err error) {
	src, err := source.Open(ctx, path, source.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	ix, err := checkpoint.Open(ctx, src)
	if err != nil {
		return err
	}
	s, err := New(ctx, src, ix)
	if err != nil {
		return err
	}
	return s.Write(Dir(path))
}

// Dir returns the folder of the checkpoint at a local path.
func Dir(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

// Write writes the set into a folder. What the file there says of other files
// stays; one that cannot be read is replaced.
func (s *Set) Write(dir string) error {
	path := filepath.Join(dir, Name)
	if text, err := os.ReadFile(path); err == nil {
		if old, err := Parse(text); err == nil {
			s = s.with(old)
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		return recovery.Errorf(recovery.Internal, "write %s: %w", path, err)
	}
	return outfile.Write(path, append(text, '\n'))
}

// with adds what old says of other files than s.
func (s *Set) with(old *Set) *Set {
	out := *s
	for _, f := range old.Files {
		if s.File(f.Name) != nil {
			continue
		}
		out.Files = append(out.Files, f)
		for _, t := range old.Tensors {
			if t.File == f.Name {
				out.Tensors = append(out.Tensors, t)
			}
		}
	}
	return out.indexed()
}

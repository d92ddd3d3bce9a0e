package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gantry-ml/gantry/checkpoint/gguf"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// maxSideBytes bounds a side file. The largest are tokenizers, of some tens of
// megabytes.
const maxSideBytes = 256 << 20

// ReadSide reads those of some side files that the checkpoint has, whole, by
// name; without names, all. src is the source that the index was made of.
// Errors: source_changed for a file that is not what it was; invalid_checkpoint
// for one that is too large; the source's.
func (ix *Index) ReadSide(ctx context.Context, src source.Source, names ...string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, f := range ix.SideFiles {
		if len(names) > 0 && !slices.Contains(names, f.Name) {
			continue
		}
		r, err := openSame(ctx, src, f)
		if err != nil {
			return nil, err
		}
		if f.Size > maxSideBytes {
			return nil, cmp.Or(invalid(f.Name, "%d bytes, at most %d are allowed", f.Size, maxSideBytes), r.Close())
		}
		data := make([]byte, f.Size)
		if err := errors.Join(r.ReadAt(ctx, data, 0), r.Close()); err != nil {
			return nil, err
		}
		files[f.Name] = data
	}
	return files, nil
}

// GGUFMetadata reads the metadata of a GGUF model whole, to write it again as
// it is: that of the first part, without what makes it a part of several. src
// is the source that the index was made of.
func (ix *Index) GGUFMetadata(ctx context.Context, src source.Source) ([]gguf.Entry, error) {
	if ix.Format != FormatGGUF || len(ix.Files) == 0 {
		return nil, recovery.Errorf(recovery.Internal, "metadata of GGUF is asked for of a checkpoint of %s", ix.Format)
	}
	r, err := openSame(ctx, src, ix.Files[0])
	if err != nil {
		return nil, err
	}
	entries, err := gguf.Entries(ctx, r, func(key string) bool { return !strings.HasPrefix(key, "split.") })
	return entries, errors.Join(err, r.Close())
}

// openSame opens a file again, which must be the one that is listed.
func openSame(ctx context.Context, src source.Source, f source.File) (source.Reader, error) {
	r, err := src.Open(ctx, f.Name)
	if err != nil {
		return nil, err
	}
	if got := r.File(); got.Size != f.Size || got.ID != f.ID {
		err := &recovery.Error{Class: recovery.SourceChanged, Op: "open", File: f.Name,
			Err:  fmt.Errorf("it had %d bytes as %q and is now %d bytes, %q", f.Size, f.ID, got.Size, got.ID),
			Hint: "load again"}
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

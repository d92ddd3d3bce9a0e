package source

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
)

// cachedBlob is a file of a hub's model that huggingface_hub has downloaded:
// its cache holds each under the digest that the hub gives it, and only whole.
type cachedBlob struct {
	Reader
	file File
	src  Source
}

// File is the hub's, so that it is the same file wherever its bytes are.
func (b *cachedBlob) File() File { return b.file }

// Close closes the file and its folder.
func (b *cachedBlob) Close() error { return errors.Join(b.Reader.Close(), b.src.Close()) }

// cached opens a file of the listing in the local cache, which is never
// written. It is nil where that does not have it: the hub has.
func (s *hub) cached(ctx context.Context, f hubFile) Reader {
	if s.blobs == "" || !hubDigest.MatchString(f.etag) {
		return nil
	}
	src, err := openLocal(filepath.Join(s.blobs, f.etag), Options{})
	if err != nil {
		return nil
	}
	r, err := src.Open(ctx, f.etag)
	if err != nil {
		_ = src.Close() // nothing of it was opened
		return nil
	}
	b := &cachedBlob{r, f.File, src}
	b.file.Name = strings.TrimPrefix(f.Name, s.dir)
	if r.File().Size != f.Size {
		_ = b.Close() // nothing of it was read
		return nil
	}
	return b
}

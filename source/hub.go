package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// hub is a model on a Hugging Face hub. Its revision is resolved to a commit
// once, and everything is read from that commit. Interface: the hub's
// /api/models/…/revision and /…/resolve routes, as huggingface_hub uses them.
type hub struct {
	name  hubName
	dir   string // of what is listed, "" or one that ends with '/'
	web   *web
	retry *retrier   // of each file that is asked for by itself
	mu    sync.Mutex // held while the listing is fetched
	files []hubFile  // nil before; sorted
	base  *url.URL   // of the commit's files
	blobs string     // of the local cache, "" where it is not looked at
	// unlisted says that the hub has no listings: files are those of known
	// names, and there may be others.
	unlisted bool
}

// hubFile is a file of the model, in whatever folder of it. Its ID is "" where
// a listing did not tell its size and digest.
type hubFile struct {
	File
	etag string // SHA-256 of a large file, git's blob id of a small one
}

func newHub(n hubName, endpoint *url.URL, token string, o Options) (Source, error) {
	w, err := newWeb(endpoint, o)
	if err != nil {
		return nil, err
	}
	w.token, w.deniedBy = token, "the model may be private, gated or misspelt: accept its terms and set HF_TOKEN"
	dir, _ := path.Split(n.file)
	s := &hub{name: n, dir: dir, web: w, retry: newRetrier(o.Retry)}
	if repo, err := hubCache(n); err == nil && !w.guard.restricted { // no home, no cache
		s.blobs = filepath.Join(repo, "blobs")
	}
	return s, nil
}

func (s *hub) URI() string   { return s.name.String() }
func (s *hub) Entry() string { return strings.TrimPrefix(s.name.file, s.dir) }

func (s *hub) Close() error {
	s.web.conns.CloseIdleConnections()
	return nil
}

// list returns the files of the commit, each in the model's folder with size
// and ID. Hubs that have no listings, which some mirrors are, are asked for the
// names that a checkpoint has.
func (s *hub) list(ctx context.Context) ([]hubFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files != nil {
		return s.files, nil
	}
	files, rev, listErr := s.listed(ctx)
	unlisted := errors.Is(listErr, errNoListing)
	if listErr != nil && !unlisted {
		return nil, listErr
	}
	if unlisted {
		rev = s.name.rev
		names := folderNames
		if s.name.file != "" {
			names = slices.Concat(names, []string{s.Entry()})
		}
		for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
			files = append(files, hubFile{File: File{Name: s.dir + name}})
		}
	}
	base := below(s.web.root, s.name.org+"/"+s.name.name+"/resolve/")
	base.Path, base.RawPath = base.Path+rev+"/", base.EscapedPath()+url.PathEscape(rev)+"/"
	files, err := s.complete(ctx, base, files, unlisted)
	switch {
	case err != nil:
		return nil, err
	case unlisted && len(files) == 0:
		return nil, listErr
	}
	slices.SortFunc(files, func(a, b hubFile) int { return cmp.Compare(a.Name, b.Name) })
	s.files, s.base, s.unlisted = files, base, unlisted
	return files, nil
}

// Files lists the files of the model's folder.
func (s *hub) Files(ctx context.Context) ([]File, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, f := range all {
		if name, ok := s.inFolder(f.Name); ok {
			files = append(files, File{Name: name, Size: f.Size, ID: f.ID})
		}
	}
	return files, nil
}

// inFolder returns a file's name in the folder that is listed.
func (s *hub) inFolder(name string) (string, bool) {
	name, ok := strings.CutPrefix(name, s.dir)
	return name, ok && !strings.Contains(name, "/")
}

// Open opens a file of the listing; nothing more is asked for it yet.
func (s *hub) Open(ctx context.Context, name string) (Reader, error) {
	files, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	if !ValidName(name) {
		return nil, leaves(s.URI(), name)
	}
	for _, f := range files {
		if f.Name != s.dir+name && strings.HasPrefix(f.Name, s.dir+name+"/") {
			return nil, s.wrong(recovery.NotAllowed, "%q is a folder", name)
		}
		if f.Name != s.dir+name {
			continue
		}
		if f.ID == "" { // below the folder
			return s.stat(ctx, s.base, f.Name)
		}
		if r := s.cached(ctx, f); r != nil {
			return r, nil
		}
		return s.file(s.base, f), nil
	}
	if s.unlisted {
		return s.stat(ctx, s.base, s.dir+name)
	}
	return nil, s.wrong(recovery.NotFound, "it has no file %q", name)
}

// file returns a file whose size and version are known.
func (s *hub) file(base *url.URL, f hubFile) *webFile {
	known := f.File
	known.Name = strings.TrimPrefix(f.Name, s.dir)
	return &webFile{web: s.web, url: below(base, f.Name), file: known, same: func(a *answer) bool { return f.is(a, s.web.root) }}
}

func (s *hub) wrong(class recovery.Class, format string, args ...any) error {
	return &recovery.Error{Class: class, Op: "open", File: s.URI(), Err: fmt.Errorf(format, args...)}
}

// located says which model an error is about.
func (s *hub) located(err error) error {
	e, ok := err.(*recovery.Error)
	if !ok {
		return err
	}
	e.Op, e.File = "open", s.URI()
	return e
}

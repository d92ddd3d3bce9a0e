package source

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gantry-ml/gantry/recovery"
)

// maxListing is the most that a hub may answer when asked for a model's files.
const maxListing = 16 << 20

// hub is a model on a Hugging Face hub. Its revision is resolved to a commit
// once, and everything is read from that commit. Interface: the hub's
// /api/models/…/revision and /…/resolve routes, as huggingface_hub uses them.
type hub struct {
	name  hubName
	web   *web
	mu    sync.Mutex // held while the listing is fetched
	files []hubFile  // nil before; sorted
	base  *url.URL   // of the commit's files
}

// hubFile is a file of the model, in whatever folder of it.
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
	return &hub{name: n, web: w}, nil
}

func (s *hub) URI() string   { return s.name.String() }
func (s *hub) Entry() string { return "" }

func (s *hub) Close() error {
	s.web.conns.CloseIdleConnections()
	return nil
}

// modelInfo is what the hub tells about a revision.
type modelInfo struct {
	SHA      string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
		Size *int64 `json:"size"`
		Blob string `json:"blobId"`
		LFS  *struct {
			SHA256 string `json:"sha256"`
			Size   int64  `json:"size"`
		} `json:"lfs"`
	} `json:"siblings"`
}

// list returns the files of the commit.
func (s *hub) list(ctx context.Context) ([]hubFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files != nil {
		return s.files, nil
	}
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	files := make([]hubFile, 0, len(info.Siblings))
	for _, f := range info.Siblings {
		h := hubFile{File{Name: f.Name}, f.Blob}
		switch {
		case !ValidName(f.Name):
			continue
		case f.LFS != nil:
			h.Size, h.etag = f.LFS.Size, f.LFS.SHA256
		case f.Size != nil:
			h.Size = *f.Size
		}
		if h.etag == "" || h.Size < 0 || f.LFS == nil && f.Size == nil {
			return nil, s.wrong(recovery.Unsupported, "the hub does not tell size and digest of %.80q", f.Name)
		}
		h.ID = "hub=" + h.etag
		files = append(files, h)
	}
	slices.SortFunc(files, func(a, b hubFile) int { return cmp.Compare(a.Name, b.Name) })
	s.files, s.base = files, s.at("", "resolve/"+info.SHA+"/")
	return files, nil
}

// at returns a URL of the model, below a route of the hub.
func (s *hub) at(route, rest string) *url.URL {
	return below(s.web.root, route+s.name.org+"/"+s.name.name+"/"+rest)
}

func (s *hub) info(ctx context.Context) (info modelInfo, err error) {
	u := s.at("api/models/", "revision/")
	u.Path, u.RawPath = u.Path+s.name.rev, u.EscapedPath()+url.PathEscape(s.name.rev) // a slash in it is no separator
	u.RawQuery = "blobs=true"
	a, err := s.web.get(ctx, u, http.Header{})
	if err != nil {
		return info, s.located(err)
	}
	defer a.Close()
	if a.StatusCode != http.StatusOK {
		return info, s.located(a.refusal())
	}
	data, err := io.ReadAll(io.LimitReader(a, maxListing+1))
	if err != nil {
		return info, s.located(a.failure(err))
	}
	if len(data) > maxListing || json.Unmarshal(data, &info) != nil || !hubPart.MatchString(info.SHA) {
		return info, s.wrong(recovery.Unavailable, "the hub's answer is no list of a model's files")
	}
	return info, nil
}

// Files lists the files of the model's folder.
func (s *hub) Files(ctx context.Context) ([]File, error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, f := range all {
		if !strings.Contains(f.Name, "/") {
			files = append(files, f.File)
		}
	}
	return files, nil
}

// Open opens a file of the listing; nothing is asked for it yet.
func (s *hub) Open(ctx context.Context, name string) (Reader, error) {
	files, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	if !ValidName(name) {
		return nil, leaves(s.URI(), name)
	}
	for _, f := range files {
		if f.Name == name {
			same := func(a *answer) bool { return f.is(a, s.web.root) }
			return &webFile{web: s.web, url: below(s.base, name), file: f.File, same: same}, nil
		}
		if strings.HasPrefix(f.Name, name+"/") {
			return nil, s.wrong(recovery.NotAllowed, "%q is a folder", name)
		}
	}
	return nil, s.wrong(recovery.NotFound, "it has no file %q", name)
}

// is reports whether an answer to the file's own URL is of this file. Where
// the hub redirects it says of what, in headers of its own; a mirror that does
// not say is trusted to keep to the commit.
func (f hubFile) is(a *answer, root *url.URL) bool {
	etag := a.linked.etag
	if etag == "" {
		etag = a.Header.Get("X-Linked-Etag")
	}
	if etag == "" && a.Request.URL.Scheme == root.Scheme && a.Request.URL.Host == root.Host {
		etag = a.Header.Get("ETag")
	}
	size := f.Size
	if a.linked.size != "" {
		n, err := strconv.ParseInt(a.linked.size, 10, 64)
		if err != nil {
			return false
		}
		size = n
	}
	etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	return (etag == "" || etag == f.etag) && size == f.Size
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

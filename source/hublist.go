package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/recovery"
)

// maxListing is the most that a hub may answer when asked for a model's files.
const maxListing = 16 << 20

// errNoListing is the error of a hub that does not have the route of listings.
// One that has it says in X-Error-Code what it does not find.
var errNoListing = errors.New("it has no listing of the model")

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

// listed returns the files that the hub lists, and the commit. Not every
// mirror tells sizes and digests, or the commit.
func (s *hub) listed(ctx context.Context) ([]hubFile, string, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, "", err
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
		default:
			h.etag = ""
		}
		if h.etag != "" && h.Size >= 0 {
			h.ID = "hub=" + h.etag
		}
		files = append(files, h)
	}
	if info.SHA == "" {
		info.SHA = s.name.rev
	}
	return files, info.SHA, nil
}

func (s *hub) info(ctx context.Context) (info modelInfo, err error) {
	u := below(s.web.root, "api/models/"+s.name.org+"/"+s.name.name+"/revision/")
	u.Path, u.RawPath = u.Path+s.name.rev, u.EscapedPath()+url.PathEscape(s.name.rev) // a slash in it is no separator
	u.RawQuery = "blobs=true"
	a, err := s.web.get(ctx, u, http.Header{})
	if err != nil {
		return info, s.located(err)
	}
	defer a.Close()
	if a.StatusCode != http.StatusOK {
		err := a.refusal()
		if a.StatusCode == http.StatusNotFound && a.Header.Get("X-Error-Code") == "" {
			err = &recovery.Error{Class: recovery.NotFound, Err: fmt.Errorf("%w: the server answered 404 Not Found", errNoListing), Hint: "check the URI"}
		}
		return info, s.located(err)
	}
	data, err := io.ReadAll(io.LimitReader(a, maxListing+1))
	if err != nil {
		return info, s.located(a.failure(err))
	}
	if len(data) > maxListing || json.Unmarshal(data, &info) != nil || info.SHA != "" && !hubPart.MatchString(info.SHA) || info.SHA == "" && info.Siblings == nil {
		return info, s.wrong(recovery.Unavailable, "the hub's answer is no list of a model's files")
	}
	return info, nil
}

// complete asks for size and version of the files in the model's folder whose
// listing does not tell them. Of those that are only tried it returns those
// that are there.
func (s *hub) complete(ctx context.Context, base *url.URL, files []hubFile, tried bool) ([]hubFile, error) {
	missing := make([]bool, len(files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(statAtOnce)
	for i := range files {
		f := &files[i]
		if _, ok := s.inFolder(f.Name); !ok || f.ID != "" {
			continue
		}
		g.Go(func() error {
			err := s.retry.do(gctx, func() (err error) { *f, err = s.ask(gctx, base, f.Name); return err })
			if tried && recovery.ClassOf(err) == recovery.NotFound {
				missing[i] = true
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	there := files[:0]
	for i, f := range files {
		if !missing[i] {
			there = append(there, f)
		}
	}
	return there, nil
}

// stat opens a file that no listing has.
func (s *hub) stat(ctx context.Context, base *url.URL, name string) (Reader, error) {
	f, err := s.ask(ctx, base, name)
	if err != nil {
		return nil, err
	}
	return s.file(base, f), nil
}

// hubDigest is what a hub gives as a file's ETag: its SHA-256, or git's blob
// id. Other servers have ETags of their own, which say nothing elsewhere.
var hubDigest = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// ask asks for the size and version of a file.
func (s *hub) ask(ctx context.Context, base *url.URL, name string) (hubFile, error) {
	h := hubFile{File: File{Name: name}}
	f := &webFile{web: s.web, url: below(base, name)}
	a, size, err := f.stat(ctx)
	if err != nil {
		return h, err
	}
	h.Size, h.etag = size, hubEtag(a, s.web.root)
	switch {
	case a.linked.size != "" && a.linked.size != strconv.FormatInt(size, 10):
		return h, f.at(0, 0, recovery.Errorf(recovery.Unavailable, "the hub says that it has %.20q bytes, and where it sends to it has %d", a.linked.size, size))
	case hubDigest.MatchString(h.etag):
		h.ID = "hub=" + h.etag
	case h.etag != "":
		h.ID = fmt.Sprintf("version=%s,size=%d", h.etag, size)
	default:
		h.ID = versionOf(a, size)
	}
	return h, nil
}

// hubEtag returns what the hub says of a file's content, "" where it does not.
// Where it redirects it says so in headers of its own.
func hubEtag(a *answer, root *url.URL) string {
	etag := a.linked.etag
	if etag == "" {
		etag = a.Header.Get("X-Linked-Etag")
	}
	if etag == "" && a.Request.URL.Scheme == root.Scheme && a.Request.URL.Host == root.Host {
		etag = a.Header.Get("ETag")
	}
	return strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
}

// is reports whether an answer to the file's own URL is of this file. A mirror
// that does not say is trusted to keep to the commit.
func (f hubFile) is(a *answer, root *url.URL) bool {
	if f.etag == "" {
		return versionOf(a, f.Size) == f.ID
	}
	size := f.Size
	if a.linked.size != "" {
		n, err := strconv.ParseInt(a.linked.size, 10, 64)
		if err != nil {
			return false
		}
		size = n
	}
	etag := hubEtag(a, root)
	return (etag == "" || etag == f.etag) && size == f.Size
}

package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/recovery"
)

// statAtOnce is how many names are looked for at once.
const statAtOnce = 8

// folderNames are looked for in a folder on a web server, which may have no
// listing: the names of a Hugging Face folder.
var folderNames = []string{
	"added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json",
	"gantry.require.json", "generation_config.json", "hf_quant_config.json", "merges.txt", "model.safetensors", "model.safetensors.index.json",
	"quant_config.json", "quantize_config.json",
	"special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
}

// website is a folder on a web server, or one file and what lies beside it.
type website struct {
	web   *web
	dir   *url.URL // its path ends with '/'
	entry string
	names []string // looked for, sorted
	retry *retrier // of each name that is looked for: one failure is not the whole listing's
}

func openHTTP(uri string, o Options) (Source, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, recovery.Errorf(recovery.Usage, "%s is no URI of a web server", redact(uri))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, recovery.Errorf(recovery.Usage, "%s: a URI with user, query or fragment is not accepted, since URIs go into plans and logs", redact(uri))
	}
	if u.Path == "" {
		u.Path = "/"
	}
	s := &website{dir: u, names: o.Names, retry: newRetrier(o.Retry)}
	if s.names == nil {
		s.names = folderNames
	}
	if !strings.HasSuffix(u.Path, "/") {
		s.entry = path.Base(u.Path)
		if path.Ext(s.entry) == "" {
			return nil, recovery.Errorf(recovery.Usage, "%s names no file of a known kind: the URI of a folder ends with '/'", redact(uri))
		}
		if !ValidName(s.entry) {
			return nil, recovery.Errorf(recovery.Usage, "%s does not end with a file's name", redact(uri))
		}
		s.dir, s.names = u.ResolveReference(&url.URL{Path: "."}), append(slices.Clone(s.names), s.entry)
	}
	s.names = slices.Compact(slices.Sorted(slices.Values(s.names)))
	if s.web, err = newWeb(s.dir, o); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *website) URI() string   { return below(s.dir, s.entry).String() }
func (s *website) Entry() string { return s.entry }

func (s *website) Close() error {
	s.web.conns.CloseIdleConnections()
	return nil
}

// Files looks for the names that a checkpoint has; where none of them holds
// weights, for those that the folder's page links to. Servers that do not list
// answer 403 for what is not there: that counts only where nothing is.
func (s *website) Files(ctx context.Context) ([]File, error) {
	files, denied, err := s.lookFor(ctx, slices.DeleteFunc([]string{s.entry}, func(n string) bool { return n == "" }))
	if err != nil || denied != nil {
		return nil, cmp.Or(err, denied) // of the file that was named, rather than of one beside it
	}
	beside, denied, err := s.lookFor(ctx, slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return n == s.entry }))
	if err != nil {
		return nil, err
	}
	files = append(files, beside...)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if s.entry == "" && !slices.ContainsFunc(files, func(f File) bool { return strings.Contains(f.Name, ".safetensors") }) {
		var names []string
		if err := s.retry.do(ctx, func() (err error) { names, err = s.linked(ctx); return err }); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(s.names, n) })
		more, _, err := s.lookFor(ctx, names)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
		slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	}
	if len(files) == 0 && denied != nil {
		return nil, denied
	}
	return files, nil
}

// lookFor asks for each of the names, and returns the files that are there and
// one refusal, if there was any.
func (s *website) lookFor(ctx context.Context, names []string) (files []File, refused, err error) {
	found := make([]*File, len(names))
	denied := make([]error, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(statAtOnce)
	for i, name := range names {
		g.Go(func() error {
			var r Reader
			err := s.retry.do(gctx, func() (err error) { r, err = s.Open(gctx, name); return err })
			switch recovery.ClassOf(err) {
			case recovery.NotFound:
				return nil
			case recovery.NotAllowed:
				denied[i] = err
				return nil
			case "":
				f := r.File()
				found[i] = &f
				return r.Close()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, errors.Join(ctx.Err(), err)
	}
	for i := range names {
		if found[i] != nil {
			files = append(files, *found[i])
		}
		refused = cmp.Or(refused, denied[i])
	}
	return files, refused, nil
}

// Open asks for the file's size and version.
func (s *website) Open(ctx context.Context, name string) (Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !ValidName(name) {
		return nil, leaves(s.URI(), name)
	}
	f := &webFile{web: s.web, url: below(s.dir, name)}
	a, size, err := f.stat(ctx)
	if err != nil {
		return nil, err
	}
	f.file = File{Name: name, Size: size, ID: versionOf(a, size)}
	f.same = func(a *answer) bool { return versionOf(a, size) == f.file.ID }
	return f, nil
}

func versionOf(a *answer, size int64) string {
	if v := validatorOf(a); v != "" {
		return fmt.Sprintf("version=%s,size=%d", v, size)
	}
	return fmt.Sprintf("size=%d", size)
}

func leaves(folder, name string) error {
	return &recovery.Error{Class: recovery.NotAllowed, Op: "open", File: folder, Err: fmt.Errorf("the name %q leaves the folder", name)}
}

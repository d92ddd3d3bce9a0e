package source

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Mode says how local files are read.
type Mode string

// The modes.
const (
	// ModeAuto maps what is in the page cache, which saves a copy, and reads
	// the rest with pread: where it was measured (BenchmarkCold) the kernel's
	// readahead was faster than ModeDirect, and what was read stays in memory
	// for the next load. On a network file system it is ModePread.
	ModeAuto  Mode = "auto"
	ModePread Mode = "pread"
	// ModeMmap maps files, so that readers are Mappers. On a network file
	// system, where a mapping cannot be trusted to notice a change, it is
	// pread all the same.
	ModeMmap Mode = "mmap"
	// ModeDirect reads around the page cache (O_DIRECT), where the file system
	// has that, and with pread elsewhere and in small parts.
	ModeDirect Mode = "direct"
)

// Options says how a source is opened. The zero value reads any local file.
type Options struct {
	Mode Mode // "" is ModeAuto
	// Roots are the folders that a server may read. What lies outside all of
	// them once links are resolved is refused as not_allowed. None: anything
	// that this process may read.
	Roots []string
	// Hosts are those that a server may read from: names, addresses, or
	// *.domain. None: any, if there are no Roots either, but link-local and
	// metadata addresses, and private ones that the URI does not name itself.
	Hosts []string
	// Names are looked for in a folder on a web server; nil is those of a
	// Hugging Face folder.
	Names []string
	// Stall is how long a server may send nothing; 0 is 30 s.
	Stall time.Duration
	Retry RetryPolicy // of remote sources
	// Cache is a folder that what is read of remote sources is kept in; "" is
	// nowhere.
	Cache string
}

// requestsAtOnce is how many requests a remote source has under way.
const requestsAtOnce = 16

// Validate reports what is wrong with the options, with class usage.
func (o Options) Validate() error {
	switch o.Mode {
	case "", ModeAuto, ModePread, ModeMmap, ModeDirect:
		return nil
	}
	return recovery.Errorf(recovery.Usage, "unknown read mode %q: want auto, mmap, pread or direct", o.Mode)
}

// Open opens a path, a file:// URI, an http:// or https:// URI (that of a
// folder on a web server ends with '/'), hf://org/name[@rev] or
// s3://bucket/prefix. Remote sources are asked again, as Options.Retry says,
// and reached only when they are used.
// Errors: not_found, not_allowed, unsupported (other schemes), usage.
func Open(ctx context.Context, uri string, o Options) (Source, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if scheme, _, found := strings.Cut(uri, "://"); found {
		if open, remote := remotes[strings.ToLower(scheme)]; remote {
			s, err := open(uri, o)
			if err != nil {
				return nil, err
			}
			if _, cached := s.(*local); cached {
				return s, nil
			}
			s = Retry(Concurrent(s, requestsAtOnce), o.Retry)
			if o.Cache == "" {
				return s, nil
			}
			return Cached(s, o.Cache)
		}
	}
	path, err := localPath(uri)
	if err != nil {
		return nil, err
	}
	return openLocal(path, o)
}

// remotes are the ways to open by scheme.
var remotes = map[string]func(uri string, o Options) (Source, error){
	"http": openHTTP, "https": openHTTP, "hf": openHub, "s3": openS3,
}

// localPath returns the path that a plain path or a file:// URI names.
func localPath(uri string) (string, error) {
	scheme, _, found := strings.Cut(uri, "://")
	switch {
	case uri == "":
		return "", recovery.Errorf(recovery.Usage, "no checkpoint named: give a file, a folder or a file:// URI")
	case strings.ContainsRune(uri, 0):
		return "", recovery.Errorf(recovery.Usage, "%q is no path: it contains a NUL", uri)
	case !found:
		return uri, nil
	case scheme != "file":
		return "", &recovery.Error{
			Class: recovery.Unsupported, Op: "open", File: redact(uri),
			Err:  errScheme(scheme),
			Hint: "download the checkpoint and name its folder",
		}
	}
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
		return "", recovery.Errorf(recovery.Usage, "%q is no local file URI: want file:///path", redact(uri))
	}
	if strings.ContainsRune(u.Path, 0) {
		return "", recovery.Errorf(recovery.Usage, "%q is no path: it contains a NUL", uri)
	}
	return u.Path, nil
}

type errScheme string

func (e errScheme) Error() string {
	return "sources of scheme " + string(e) + ":// are not supported in this version"
}

// redact takes what may be a secret out of a URI: the user and the query.
func redact(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		scheme, _, _ := strings.Cut(uri, "://")
		return scheme + "://…"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

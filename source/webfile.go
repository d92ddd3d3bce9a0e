package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

const (
	// wholeLimit is the largest file that is read from a server that has no
	// ranges: each range costs the file.
	wholeLimit = 64 << 20
	// directAge is how long the end of a redirect is asked directly. Signed
	// ones are good for longer; a refusal ends it sooner.
	directAge = 5 * time.Minute
)

// webFile reads a remote file by ranges. Where the server redirects, the end
// is remembered and asked directly, until it refuses or gets old.
type webFile struct {
	web  *web
	url  *url.URL
	file File
	// same reports whether an answer that came by url is of the file that was
	// opened.
	same func(*answer) bool

	mu        sync.Mutex
	direct    *url.URL // nil: ask url
	directAt  time.Time
	validator string // of the end of the redirect; "" before the first answer
}

func (f *webFile) File() File   { return f.file }
func (f *webFile) Close() error { return nil }

// ReadAt implements Reader.
func (f *webFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	return readStream(ctx, f, p, off)
}

// Stream implements Streamer: one request.
func (f *webFile) Stream(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || off > f.file.Size || n > f.file.Size-off {
		return nil, f.at(off, n, changed("the range is not in the file, which has %d bytes", f.file.Size))
	}
	if n == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	u, validator, direct := f.target()
	a, err := f.ask(ctx, u, off, n, validator)
	if direct && err == nil && a.StatusCode/100 == 4 {
		a.Close()
		f.forget(u)
		direct = false
		a, err = f.ask(ctx, f.url, off, n, "")
	}
	if err == nil {
		if err = f.check(a, off, n, validator, direct); err == nil {
			return &webStream{f, a, off, n}, nil
		}
		a.Close()
	}
	return nil, f.at(off, n, err)
}

// webStream is the body of an answer that check has found right.
type webStream struct {
	f         *webFile
	a         *answer
	off, left int64
}

func (s *webStream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if err := s.a.parent.Err(); err != nil {
		return 0, err // net/http ends what it reads some time later
	}
	n, err := s.a.Read(p[:min(int64(len(p)), s.left)])
	s.off, s.left = s.off+int64(n), s.left-int64(n)
	if err != nil && s.left > 0 {
		return n, s.f.at(s.off, s.left, s.a.failure(err))
	}
	return n, nil
}

func (s *webStream) Close() error {
	s.a.Close()
	return nil
}

func (f *webFile) ask(ctx context.Context, u *url.URL, off, n int64, validator string) (*answer, error) {
	h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+n-1)}}
	if validator != "" && !strings.HasPrefix(validator, "W/") { // weak ones may not be used for ranges
		h.Set("If-Range", validator)
	}
	return f.web.get(ctx, u, h)
}

// check sees to it that an answer's body goes on with the n bytes from off. A
// direct one must have the validator that was known when it was asked for.
func (f *webFile) check(a *answer, off, n int64, known string, direct bool) error {
	skip := int64(0)
	switch a.StatusCode {
	case http.StatusPartialContent:
		start, stop, size, ok := contentRange(a.Header.Get("Content-Range"))
		if ok && size != f.file.Size {
			return changed("it has %d bytes, it had %d when it was opened", size, f.file.Size)
		}
		if !ok || start != off || stop != off+n {
			return recovery.Errorf(recovery.Unavailable, "the server sent another range: %.80q", a.Header.Get("Content-Range"))
		}
	case http.StatusOK:
		if a.ContentLength >= 0 && a.ContentLength != f.file.Size {
			return changed("it has %d bytes, it had %d when it was opened", a.ContentLength, f.file.Size)
		}
		skip = off
	default:
		return a.refusal()
	}
	validator := validatorOf(a)
	if direct && validator != known || !direct && !f.same(a) {
		return changed("the server has another version of it now")
	}
	if a.StatusCode == http.StatusOK && n != f.file.Size && f.file.Size > wholeLimit {
		return &recovery.Error{Class: recovery.Unsupported, Err: fmt.Errorf("the server sends whole files, not ranges, and this one is over %d MiB", wholeLimit>>20),
			Hint: "download the checkpoint and name its folder"}
	}
	if !direct {
		f.remember(a, validator)
	}
	if _, err := io.CopyN(io.Discard, a, skip); err != nil {
		return a.failure(err)
	}
	return nil
}

// target returns what to ask next.
func (f *webFile) target() (u *url.URL, validator string, direct bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.direct != nil && time.Since(f.directAt) < directAge {
		return f.direct, f.validator, true
	}
	if f.direct != nil {
		return f.url, "", false
	}
	return f.url, f.validator, false
}

func (f *webFile) remember(a *answer, validator string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.validator, f.direct = validator, nil
	if end := a.Request.URL; end.String() != f.url.String() {
		f.direct, f.directAt = end, time.Now()
	}
}

// forget gives the end of a redirect up, unless it was replaced meanwhile.
func (f *webFile) forget(refused *url.URL) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.direct == refused {
		f.direct, f.validator = nil, ""
	}
}

// stat asks for the first byte, which tells size and version, and works where
// a URL is signed for GET alone.
func (f *webFile) stat(ctx context.Context) (*answer, int64, error) {
	a, err := f.ask(ctx, f.url, 0, 1, "")
	if err != nil {
		return nil, 0, f.at(0, 0, err)
	}
	defer a.Close()
	size := int64(-1)
	switch a.StatusCode {
	case http.StatusOK:
		size = a.ContentLength
	case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		start, _, total, ok := contentRange(a.Header.Get("Content-Range"))
		switch {
		case ok && start > 0:
			return nil, 0, f.at(0, 0, recovery.Errorf(recovery.Unavailable, "the server sent another range: %.80q", a.Header.Get("Content-Range")))
		case ok && (start == 0 || total == 0):
			size = total
		}
	default:
		return nil, 0, f.at(0, 0, a.refusal())
	}
	if strings.HasSuffix(a.Request.URL.Path, "/") {
		return nil, 0, f.at(0, 0, &recovery.Error{Class: recovery.NotAllowed, Op: "open", Err: errors.New("a folder, not a file")})
	}
	if size < 0 {
		return nil, 0, f.at(0, 0, recovery.Errorf(recovery.Unsupported, "the server does not tell its size"))
	}
	f.remember(a, validatorOf(a))
	return a, size, nil
}

// validatorOf is what tells one version of a file from another.
func validatorOf(a *answer) string {
	return cmp.Or(a.Header.Get("ETag"), a.Header.Get("Last-Modified"))
}

// changed is the error of a remote file that is not the one that was opened.
func changed(format string, args ...any) error {
	return &recovery.Error{Class: recovery.SourceChanged, Err: fmt.Errorf(format, args...), Hint: "load again once nobody writes it"}
}

// at says where an error happened. It does not change errors of contexts.
func (f *webFile) at(off, n int64, err error) error {
	var e *recovery.Error
	if !errors.As(err, &e) {
		return err
	}
	where := *e
	where.Op, where.File = cmp.Or(e.Op, "read"), redact(f.url.String())
	where.Offset, where.Length = off, n
	return &where
}

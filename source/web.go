package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

const (
	defaultStall = 30 * time.Second
	maxRedirects = 5
	idlePerHost  = 32 // connections kept for the next range
)

// web sends the requests of one remote source. It speaks HTTP/1.1: ranges on
// connections of their own are not held up by each other.
type web struct {
	client   *http.Client
	conns    *http.Transport
	guard    guard
	stall    time.Duration
	token    string // goes to the origin of root and nowhere else
	root     *url.URL
	deniedBy string // what to do about 401 and 403
}

func newWeb(root *url.URL, o Options) (*web, error) {
	w := &web{
		root: root, stall: cmp.Or(o.Stall, defaultStall),
		guard: guard{hosts: o.Hosts, restricted: len(o.Hosts)+len(o.Roots) > 0, named: []string{canonicalHost(root.Hostname())}},
	}
	if err := w.guard.host(root.Hostname()); err != nil {
		return nil, err
	}
	w.conns = &http.Transport{
		DialContext: w.dial, MaxIdleConnsPerHost: idlePerHost, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: w.stall, DisableCompression: true,
	}
	if !w.guard.restricted { // a proxy would look names up where the guard cannot see
		w.conns.Proxy = http.ProxyFromEnvironment
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: root}); err == nil && proxy != nil {
			w.guard.named = append(w.guard.named, canonicalHost(proxy.Hostname()))
		}
	}
	w.client = &http.Client{Transport: authorized{w}, CheckRedirect: w.redirect}
	return w, nil
}

func (w *web) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: w.stall, Control: func(_, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err != nil {
			return err
		}
		return w.guard.address(host, ap.Addr())
	}}
	return d.DialContext(ctx, network, addr)
}

// authorized adds the token to what goes to the root's own origin. net/http
// would pass an Authorization header on to subdomains.
type authorized struct{ w *web }

func (a authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.w.token != "" && req.URL.Scheme == a.w.root.Scheme && req.URL.Host == a.w.root.Host {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+a.w.token)
	}
	return a.w.conns.RoundTrip(req)
}

// linkedKey is the context key of the *linked that redirects are noted in.
type linkedKey struct{}

// linked is what a hub says of a file when it sends to where its bytes are.
type linked struct{ etag, size string }

func (w *web) redirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return recovery.Errorf(recovery.NotAllowed, "more than %d redirects", maxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != last.Scheme:
		return recovery.Errorf(recovery.NotAllowed, "a redirect from %s to %s", last.Scheme, req.URL.Scheme)
	}
	if l, ok := req.Context().Value(linkedKey{}).(*linked); ok {
		h := req.Response.Header
		l.etag, l.size = cmp.Or(l.etag, h.Get("X-Linked-Etag")), cmp.Or(l.size, h.Get("X-Linked-Size"))
	}
	req.Header.Del("Referer") // the URL before may be signed
	return w.guard.host(req.URL.Hostname())
}

// answer is a response whose body is being read. Close it.
type answer struct {
	*http.Response
	linked linked
	parent context.Context
	ctx    context.Context
	timer  *time.Timer
	cancel context.CancelCauseFunc
	web    *web
}

var errStalled = errors.New("nothing came for too long")

// get asks for u with these headers. The time limit is on silence, not on the
// whole: it starts again with all that arrives.
func (w *web) get(parent context.Context, u *url.URL, header http.Header) (*answer, error) {
	if err := parent.Err(); err != nil {
		return nil, err
	}
	a := &answer{parent: parent, web: w}
	a.ctx, a.cancel = context.WithCancelCause(parent)
	a.timer = time.AfterFunc(w.stall, func() { a.cancel(errStalled) })
	req, err := http.NewRequestWithContext(context.WithValue(a.ctx, linkedKey{}, &a.linked), http.MethodGet, u.String(), nil)
	if err != nil {
		a.end()
		return nil, recovery.Errorf(recovery.Usage, "%s is no URI that can be asked for", redact(u.String()))
	}
	req.Header = header
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "gantry")
	if a.Response, err = w.client.Do(req); err != nil {
		err = a.failure(err)
		a.end()
		return nil, err
	}
	a.timer.Stop()
	return a, nil
}

// Read reads the body. Only the server's silence counts: a reader that takes
// its time between two reads does not end the answer.
func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.web.stall)
	n, err := a.Body.Read(p)
	a.timer.Stop()
	return n, err
}

func (a *answer) end() {
	a.timer.Stop()
	a.cancel(nil)
}

// Close gives the connection back where little is left on it.
func (a *answer) Close() {
	_, _ = io.CopyN(io.Discard, a, 4<<10) // what is left decides about the connection only
	_ = a.Body.Close()                    // reading has told all that is to be known
	a.end()
}

// failure classifies what went wrong on the way, without the URL that
// net/http puts before it, which may be signed.
func (a *answer) failure(err error) error {
	var (
		ue      *url.Error
		own     *recovery.Error
		dns     *net.DNSError
		timeout net.Error
		dial    *net.OpError
	)
	if errors.As(err, &ue) {
		err = ue.Err
	}
	e := &recovery.Error{Class: recovery.Unreachable, Op: "read", Err: err}
	begun := a.Response != nil
	switch {
	case a.parent.Err() != nil:
		return a.parent.Err()
	case context.Cause(a.ctx) == errStalled:
		e.Err = fmt.Errorf("no byte for %v", a.web.stall)
		if begun {
			e.Class = recovery.Timeout
		}
	case errors.As(err, &own):
		return own
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Class, e.Err, e.Hint = recovery.NotFound, errors.New("no such host"), "check the URI"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Err = fmt.Errorf("the connection broke off: %w", err)
		if begun {
			e.Class = recovery.Reset
		}
	case begun && errors.As(err, &timeout) && timeout.Timeout():
		e.Class = recovery.Timeout
	case errors.As(err, &dial) && dial.Op == "dial":
		e.Hint = "check that the server runs and is reached from here"
	case strings.Contains(err.Error(), "certificate"): // there are many types of it
		e.Class, e.Hint = recovery.NotAllowed, "add the authority to the system's certificates"
	}
	return e
}

// below returns the URL of a name in the folder u, whose path ends with '/'.
func below(u *url.URL, name string) *url.URL {
	v := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path + name}
	v.RawPath = u.EscapedPath() + (&url.URL{Path: name}).EscapedPath()
	return v
}

func recoverable(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented ||
		slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}, status)
}

package source

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
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
		guard: guard{hosts: o.Hosts, restricted: len(o.Hosts)+len(o.Roots) > 0, named: []string{canonicalHost(root.Hostname())}, inside: new(atomic.Bool)},
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
	*silence
	linked linked
	web    *web
}

// get asks for u with these headers.
func (w *web) get(parent context.Context, u *url.URL, header http.Header) (*answer, error) {
	if err := parent.Err(); err != nil {
		return nil, err
	}
	a := &answer{silence: newSilence(parent, w.stall), web: w}
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
	a.heard()
	return a, nil
}

// Read reads the body.
func (a *answer) Read(p []byte) (int, error) {
	a.wait()
	n, err := a.Body.Read(p)
	a.heard()
	return n, err
}

// Close gives the connection back where little is left on it.
func (a *answer) Close() {
	_, _ = io.CopyN(io.Discard, a, 4<<10) // what is left decides about the connection only
	_ = a.Body.Close()                    // reading has told all that is to be known
	a.end()
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

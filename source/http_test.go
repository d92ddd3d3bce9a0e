package source_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
)

var quick = source.RetryPolicy{Backoff: recovery.Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond}}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// thirdFails answers every third request with 503.
func thirdFails(h http.Handler) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// plain is a handler as it is.
func plain(h http.Handler) http.Handler { return h }

func TestHTTPSource(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"ranges": plain,
		"whole files": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Range")
				h.ServeHTTP(w, r)
			})
		},
		"every third request fails": thirdFails,
	} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
				server := serve(t, wrap(http.FileServer(http.Dir(dir))).ServeHTTP)
				return open(t, server.URL+"/", source.Options{Names: sourcetest.Names(), Retry: quick})
			})
		})
	}
}

// tagged gives each file an ETag.
func tagged(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+r.URL.Path+`"`)
		h.ServeHTTP(w, r)
	})
}

func TestHTTPFaults(t *testing.T) {
	sourcetest.RunFaults(t, func(t *testing.T, dir string, between func(http.Handler) http.Handler) func(t *testing.T, o source.Options) source.Source {
		server := serve(t, between(tagged(http.FileServer(http.Dir(dir)))).ServeHTTP)
		return func(t *testing.T, o source.Options) source.Source {
			o.Names = sourcetest.Names()
			return open(t, server.URL+"/", o)
		}
	})
}

const payload = "0123456789abcdef"

// content answers like a well-behaved server, with this ETag.
func content(w http.ResponseWriter, r *http.Request, etag string) {
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(payload))
}

func readHTTP(s source.Source) (string, error) {
	r, err := s.Open(context.Background(), "f.safetensors")
	if err != nil {
		return "", err
	}
	defer r.Close()
	p := make([]byte, 4)
	err = r.ReadAt(context.Background(), p, 4)
	return string(p), err
}

// TestHTTPRedirects refuses redirects that lead nowhere, or where nothing of
// the kind may be asked for.
func TestHTTPRedirects(t *testing.T) {
	for name, to := range map[string]string{
		"too many": "/f.safetensors", "another scheme": "ftp://127.0.0.1/f",
		"metadata": "http://169.254.169.254/latest/meta-data",
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) > 1 {
					http.Redirect(w, r, to, http.StatusFound)
					return
				}
				content(w, r, `"a"`)
			})
			s := open(t, server.URL+"/f.safetensors", source.Options{Retry: quick})
			defer s.Close()
			if s.Entry() != "f.safetensors" || s.URI() != server.URL+"/f.safetensors" {
				t.Errorf("entry %q of %s", s.Entry(), s.URI())
			}
			if _, err := readHTTP(s); recovery.ClassOf(err) != recovery.NotAllowed {
				t.Errorf("got %v, want class not_allowed", err)
			}
		})
	}
}

// TestHTTPWholeFileLimit refuses to fetch a large file for each of its ranges.
func TestHTTPWholeFileLimit(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "100000000") })
	s := open(t, server.URL+"/f.safetensors", source.Options{Retry: quick})
	defer s.Close()
	if _, err := readHTTP(s); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("got %v", err)
	}
}

// TestHTTPDirect asks the end of a redirect directly, and the server again
// once that refuses.
func TestHTTPDirect(t *testing.T) {
	var asked, signed atomic.Int64
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/f.safetensors" {
			http.Redirect(w, r, fmt.Sprintf("/signed?key=secret%d", asked.Add(1)), http.StatusFound)
			return
		}
		if signed.Add(1) > 3 && r.URL.RawQuery == "key=secret1" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		content(w, r, `"a"`)
	})
	s := open(t, server.URL+"/f.safetensors", source.Options{Retry: quick})
	defer s.Close()
	r, err := s.Open(context.Background(), "f.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range int64(6) {
		p := make([]byte, 2)
		if err := r.ReadAt(context.Background(), p, i); err != nil || string(p) != payload[i:i+2] {
			t.Fatalf("read %d: %q, %v", i, p, err)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("the server was asked %d times where its redirects lead, want 2", asked.Load())
	}
}

// TestHTTPHosts holds a server to the hosts that it was given.
func TestHTTPHosts(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { content(w, r, `"a"`) })
	port := netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
	for _, c := range []struct {
		host string
		o    source.Options
		want recovery.Class
	}{
		{"127.0.0.1", source.Options{}, ""},
		{"localhost", source.Options{}, ""},
		{"127.0.0.1", source.Options{Hosts: []string{"127.0.0.1"}}, ""},
		{"127.0.0.1", source.Options{Hosts: []string{"*.example.com"}}, recovery.NotAllowed},
		{"127.0.0.1", source.Options{Roots: []string{t.TempDir()}}, recovery.NotAllowed},
		{"169.254.169.254", source.Options{}, recovery.NotAllowed},
		{"[fe80::1]", source.Options{}, recovery.NotAllowed},
		{"100.100.100.200", source.Options{}, recovery.NotAllowed},
		{"metadata.google.internal", source.Options{}, recovery.NotAllowed},
		{"Metadata", source.Options{}, recovery.NotAllowed},
	} {
		c.o.Retry = quick
		s, err := source.Open(context.Background(), fmt.Sprintf("http://%s:%d/f.safetensors", c.host, port), c.o)
		if err == nil {
			_, err = readHTTP(s)
			s.Close()
		}
		if recovery.ClassOf(err) != c.want {
			t.Errorf("%s with %+v: %v, want class %q", c.host, c.o, err, c.want)
		}
	}
}

func TestHTTPURIs(t *testing.T) {
	for _, uri := range []string{"http://", "http:///f", "https://u:secret@h/f.safetensors", "http://h/f.safetensors?key=secret", "http://h/model", "http://h/..%2fx.y/"} {
		s, err := source.Open(context.Background(), uri, source.Options{})
		if err == nil {
			s.Close()
			if uri == "http://h/..%2fx.y/" && s.URI() == uri {
				continue
			}
		}
		if recovery.ClassOf(err) != recovery.Usage || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// TestRetryAfter waits as long as the server asks for, and not for ever.
func TestRetryAfter(t *testing.T) {
	var n atomic.Int64
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		content(w, r, `"a"`)
	})
	for _, c := range []struct {
		limit time.Duration
		want  recovery.Class
	}{{time.Millisecond, recovery.Unreachable}, {time.Minute, ""}} {
		n.Store(0)
		policy := quick
		policy.MaxWait = c.limit
		s := open(t, server.URL+"/f.safetensors", source.Options{Retry: policy})
		start := time.Now()
		_, err := readHTTP(s)
		if recovery.ClassOf(err) != c.want || err == nil && time.Since(start) < time.Second {
			t.Errorf("at most %v: %v after %v", c.limit, err, time.Since(start))
		}
		s.Close()
	}
}

// TestRetryBudget: a source that is down is not asked for ever.
func TestRetryBudget(t *testing.T) {
	bare, _ := sixteen(t)
	policy := quick
	policy.Budget = 5
	f := faults(t, "open * fail reset")
	s := source.Retry(source.Inject(bare, f), policy)
	for range 4 {
		if _, err := s.Open(context.Background(), "a"); recovery.ClassOf(err) != recovery.Reset {
			t.Errorf("open: %v", err)
		}
	}
	if got := f.Hits()[0].Hits; got != 9 {
		t.Errorf("%d tries, want 4 and a budget of 5", got)
	}
}

// TestConcurrent keeps the others waiting, until their contexts end.
func TestConcurrent(t *testing.T) {
	bare, _ := sixteen(t)
	s := source.Concurrent(source.Inject(bare, faults(t, "read * block")), 1)
	r, err := s.Open(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	held, release := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ReadAt(held, make([]byte, 1), 0) }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.ReadAt(ctx, bytes.Repeat([]byte{0}, 1), 1); recovery.ClassOf(err) != recovery.Timeout {
		t.Errorf("got %v", err)
	}
	release()
	if err := <-done; recovery.ClassOf(err) != recovery.Cancelled {
		t.Errorf("got %v", err)
	}
}

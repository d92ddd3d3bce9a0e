package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// How long a source may wait for a silent server in RunFaults: for one that is to
// be silent, and for one that a busy machine may keep from answering. Retry is
// how it asks again.
const (
	hangs = 200 * time.Millisecond
	late  = 10 * time.Second
)

var Retry = source.RetryPolicy{Retries: 2, Backoff: recovery.Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond}}

// A fault is what goes wrong with one answer of a server. right is the answer
// as it should be. It returns false where it cannot befall this one, such as
// one without a body, which is then sent as it is.
type fault func(w http.ResponseWriter, r *http.Request, right *httptest.ResponseRecorder) bool

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) bool {
		w.WriteHeader(code)
		return true
	}
}

// drop breaks the connection off.
func drop(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder) bool {
	panic(http.ErrAbortHandler)
}

// silent says nothing until the client goes.
func silent(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
	<-r.Context().Done()
	return true
}

// garbled answers with what is no HTTP.
func garbled(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) bool {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		fmt.Fprint(conn, "nonsense\r\n\r\n")
		conn.Close()
	}
	return true
}

// half sends half of the body, and then does what end says.
func half(end func(r *http.Request)) fault {
	return func(w http.ResponseWriter, r *http.Request, right *httptest.ResponseRecorder) bool {
		if right.Body.Len() == 0 || right.Code >= 300 {
			return false
		}
		maps.Copy(w.Header(), right.Header())
		w.WriteHeader(right.Code)
		_, _ = w.Write(right.Body.Bytes()[:(right.Body.Len()+1)/2]) // the client may be gone
		w.(http.Flusher).Flush()
		end(r)
		return true
	}
}

// short ends the body in the middle as if that were all.
func short(w http.ResponseWriter, r *http.Request, right *httptest.ResponseRecorder) bool {
	right.Header().Del("Content-Length")
	return half(func(*http.Request) {})(w, r, right)
}

// ranged changes the range that the answer says it has.
func ranged(change func(start, stop, size int) (int, int, int)) fault {
	return func(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) bool {
		var start, stop, size int
		if _, err := fmt.Sscanf(right.Header().Get("Content-Range"), "bytes %d-%d/%d", &start, &stop, &size); err != nil {
			return false
		}
		start, stop, size = change(start, stop, size)
		right.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, stop, size))
		send(w, right)
		return true
	}
}

// unranged sends the whole file where a range was asked for.
func unranged(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) bool {
	if right.Code != http.StatusPartialContent {
		return false
	}
	whole := content()["model.safetensors"]
	maps.Copy(w.Header(), right.Header())
	w.Header().Del("Content-Range")
	w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(whole) // the client may be gone
	return true
}

// renamed answers with another version's name of the file.
func renamed(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) bool {
	found := false
	for _, name := range []string{"Etag", "X-Linked-Etag"} {
		if right.Header().Get(name) != "" {
			right.Header().Set(name, `"another"`)
			found = true
		}
	}
	if found {
		send(w, right)
	}
	return found
}

func send(w http.ResponseWriter, right *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), right.Header())
	w.WriteHeader(right.Code)
	_, _ = w.Write(right.Body.Bytes()) // the client may be gone
}

// line is what lies between a client and its servers.
type line struct {
	fault atomic.Pointer[fault] // nil: none
	left  atomic.Int64          // answers that it still befalls
}

func (l *line) between(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := l.fault.Load()
		if f == nil || l.left.Load() <= 0 {
			next.ServeHTTP(w, r)
			return
		}
		right := httptest.NewRecorder()
		next.ServeHTTP(right, r)
		l.left.Add(-1) // before the fault, which may not return
		if !(*f)(w, r, right) {
			l.left.Add(1)
			send(w, right)
		}
	})
}

// faults are what befalls so many answers, and what class of error a read is
// to end with: "" where it is to end well.
var faults = []struct {
	name  string
	fault fault
	times int64
	want  recovery.Class
	// open says that opening a file is held to the same: the others are about
	// ranges.
	open  bool
	stall time.Duration
}{
	{"503, then fine", status(503), 2, "", true, late},
	{"500, then fine", status(500), 1, "", true, late},
	{"429, then fine", status(429), 1, "", true, late},
	{"always 503", status(503), 99, recovery.Unreachable, true, late},
	{"401", status(401), 99, recovery.NotAllowed, true, late},
	{"403", status(403), 99, recovery.NotAllowed, true, late},
	{"404", status(404), 99, recovery.NotFound, true, late},
	{"416", status(416), 99, recovery.SourceChanged, false, late},
	{"dropped, then fine", drop, 2, "", true, late},
	{"always dropped", drop, 99, recovery.Unreachable, true, late},
	{"silent, then fine", silent, 1, "", true, hangs},
	{"always silent", silent, 99, recovery.Unreachable, true, hangs},
	{"garbled, then fine", garbled, 1, "", true, late},
	{"dropped in mid-body, then fine", half(func(*http.Request) { panic(http.ErrAbortHandler) }), 2, "", false, late},
	{"always dropped in mid-body", half(func(*http.Request) { panic(http.ErrAbortHandler) }), 99, recovery.Reset, false, late},
	{"stalled in mid-body, then fine", half(func(r *http.Request) { <-r.Context().Done() }), 1, "", false, hangs},
	{"a short body, then fine", short, 1, "", false, late},
	{"another range, then fine", ranged(func(a, b, n int) (int, int, int) { return a + 1, b + 1, n }), 1, "", false, late},
	{"always another range", ranged(func(a, b, n int) (int, int, int) { return a - 1, b - 1, n }), 99, recovery.Unavailable, false, late},
	{"a longer file", ranged(func(a, b, n int) (int, int, int) { return a, b, n + 1 }), 99, recovery.SourceChanged, false, late},
	{"a shorter file", ranged(func(a, b, n int) (int, int, int) { return a, b, n - 1 }), 99, recovery.SourceChanged, false, late},
	{"the whole file, then fine", unranged, 1, "", false, late},
	{"another version", renamed, 99, recovery.SourceChanged, false, late},
}

// RunFaults has each fault befall the answers of a server, and holds what a
// source makes of it to one table: the right bytes, or an error of the class,
// in time. setup makes the server of a folder, with what between returns before
// each of its handlers, and returns how to open the folder there, with options.
func RunFaults(t *testing.T, setup func(t *testing.T, dir string, between func(http.Handler) http.Handler) func(t *testing.T, o source.Options) source.Source) {
	dir := t.TempDir()
	for name, data := range content() {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var l line
	open := setup(t, dir, l.between)
	for _, f := range faults {
		o := source.Options{Retry: Retry, Stall: f.stall}
		befall := func(t *testing.T) {
			l.left.Store(f.times)
			l.fault.Store(&f.fault)
			t.Cleanup(func() { l.fault.Store(nil) })
		}
		t.Run("read/"+f.name, func(t *testing.T) {
			s := open(t, o)
			defer s.Close()
			r := openFile(t, s, "model.safetensors")
			befall(t)
			testFault(t, r, f.want)
		})
		t.Run("stream/"+f.name, func(t *testing.T) {
			s := open(t, o)
			defer s.Close()
			r := openFile(t, s, "model.safetensors")
			befall(t)
			want := f.want
			if want == recovery.Reset { // a stream goes on with what is left, half of it each time
				want = ""
			}
			testFault(t, streamed{r}, want)
		})
		if f.open {
			t.Run("open/"+f.name, func(t *testing.T) {
				s := open(t, o)
				defer s.Close()
				befall(t)
				_, err := s.Files(context.Background())
				if err == nil {
					var r source.Reader
					if r, err = s.Open(context.Background(), "model.safetensors"); err == nil {
						testFault(t, r, "")
						err = r.Close()
					}
				}
				heldTo(t, err, f.want)
			})
		}
	}
}

// streamed reads by Stream.
type streamed struct{ source.Reader }

func (s streamed) ReadAt(ctx context.Context, p []byte, off int64) error {
	in, err := source.Stream(ctx, s.Reader, off, int64(len(p)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(in, p)
	return errors.Join(err, in.Close())
}

// testFault reads a range in the middle, through a fault.
func testFault(t *testing.T, r source.Reader, want recovery.Class) {
	t.Helper()
	data := content()["model.safetensors"][1<<20:][:100_003]
	got := make([]byte, len(data))
	start := time.Now()
	err := r.ReadAt(context.Background(), got, 1<<20)
	heldTo(t, err, want)
	if err == nil && !bytes.Equal(got, data) {
		t.Error("wrong bytes")
	}
	if took := time.Since(start); took > late {
		t.Errorf("it took %v", took)
	}
}

// heldTo checks an error: its class, and that it is one line.
func heldTo(t *testing.T, err error, want recovery.Class) {
	t.Helper()
	if recovery.ClassOf(err) != want {
		t.Errorf("got %v of class %q, want class %q", err, recovery.ClassOf(err), want)
	}
	if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("%q is not one line", err)
	}
}

package telemetry

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

func TestPages(t *testing.T) {
	var ready atomic.Bool
	s, err := Serve("127.0.0.1:0", Pages{
		Ready: func() error {
			if !ready.Load() {
				return errors.New("no lease yet")
			}
			return nil
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "metrics") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	get := func(page string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + s.Addr() + page)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, strings.TrimSpace(string(text))
	}
	for _, c := range []struct {
		page   string
		status int
		text   string
	}{
		{"/healthz", 200, "ok"}, {"/readyz", 503, "no lease yet"}, {"/metrics", 200, "metrics"}, {"/", 404, "404 page not found"},
	} {
		if status, text := get(c.page); status != c.status || text != c.text {
			t.Errorf("%s: %d %q, want %d %q", c.page, status, text, c.status, c.text)
		}
	}
	ready.Store(true)
	if status, _ := get("/readyz"); status != 200 {
		t.Errorf("/readyz: %d once ready", status)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestPagesStayHome(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "nonsense"} {
		if _, err := Serve(addr, Pages{}); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v", addr, err)
		}
	}
	s, err := Serve("0.0.0.0:0", Pages{Insecure: true, Metrics: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

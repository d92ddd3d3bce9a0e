package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// Pages says what a process shows on --http.
type Pages struct {
	Ready    func() error // nil when it can do its work; the error is shown
	Metrics  http.Handler
	Insecure bool // allow an address beyond loopback
}

// Server serves /healthz, /readyz and /metrics.
type Server struct {
	http *http.Server
	addr string
	done chan struct{}
}

// Serve begins to serve pages on an address (HOST:PORT, port 0 for any). The
// pages are for this machine; an address beyond loopback is refused unless
// Insecure. The caller closes the server.
func Serve(addr string, p Pages) (*Server, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "--http %q: want HOST:PORT", addr)
	}
	if !loopback(host) {
		if !p.Insecure {
			return nil, recovery.Errorf(recovery.Usage, "--http %q is not loopback, and these pages have no TLS: give --insecure, or put a proxy before them", addr)
		}
		slog.Warn("INSECURE: health and metrics pages are open beyond loopback", "http", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "--http %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", p.Metrics)
	s := &Server{addr: l.Addr().String(), done: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("health and metrics pages are gone", "http", s.addr, "error", err)
		}
	}()
	return s, nil
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // the reader has gone: nobody to tell
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Addr returns HOST:PORT with the port that is used.
func (s *Server) Addr() string { return s.addr }

// Close lets running requests end, for at most two seconds, and waits until
// the server has stopped.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	if err != nil {
		return fmt.Errorf("telemetry: close --http: %w", err)
	}
	return nil
}

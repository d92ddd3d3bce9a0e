package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// silence ends a request whose server says nothing for too long. The limit is
// on each wait, not on the whole, and time that the reader takes between two
// reads is no wait.
type silence struct {
	parent context.Context
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
	begun  bool // something was heard
}

var errStalled = errors.New("nothing came for too long")

// newSilence begins to wait. The caller ends it with end.
func newSilence(parent context.Context, limit time.Duration) *silence {
	s := &silence{parent: parent, limit: limit}
	s.ctx, s.cancel = context.WithCancelCause(parent)
	s.timer = time.AfterFunc(limit, func() { s.cancel(errStalled) })
	return s
}

func (s *silence) wait() { s.timer.Reset(s.limit) }

func (s *silence) heard() {
	s.timer.Stop()
	s.begun = true
}

func (s *silence) end() {
	s.timer.Stop()
	s.cancel(nil)
}

// failure classifies what went wrong on the way, without the URL that net/http
// puts before it, which may be signed.
func (s *silence) failure(err error) error {
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
	switch {
	case s.parent.Err() != nil:
		return s.parent.Err()
	case context.Cause(s.ctx) == errStalled:
		e.Err = fmt.Errorf("no byte for %v", s.limit)
		if s.begun {
			e.Class = recovery.Timeout
		}
	case errors.As(err, &own):
		return own
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Class, e.Err, e.Hint = recovery.NotFound, errors.New("no such host"), "check the URI"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Err = fmt.Errorf("the connection broke off: %w", err)
		if s.begun {
			e.Class = recovery.Reset
		}
	case s.begun && errors.As(err, &timeout) && timeout.Timeout():
		e.Class = recovery.Timeout
	case errors.As(err, &dial) && dial.Op == "dial":
		e.Hint = "check that the server runs and is reached from here"
	case strings.Contains(err.Error(), "certificate"): // there are many types of it
		e.Class, e.Hint = recovery.NotAllowed, "add the authority to the system's certificates, or name its file in SSL_CERT_FILE"
	}
	return e
}

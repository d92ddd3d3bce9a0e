package actors

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/gantry-ml/gantry/messages/control"
	"github.com/gantry-ml/gantry/recovery"
)

func TestListenFailsWithAnError(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, addr := range []string{taken.Addr().String(), "nonsense", "127.0.0.1:http"} {
		if _, err := NewSystem(SystemOptions{Listen: addr}); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestLargeMessagesAreRefused(t *testing.T) {
	s, err := NewSystem(SystemOptions{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := make(chan int, 2)
	pid := s.root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		if m, ok := c.Message().(*control.OpenIndex); ok {
			got <- len(m.GetUri())
		}
	}))
	s.root.Send(pid, &control.OpenIndex{Uri: strings.Repeat("x", control.MaxBytes)})
	s.root.Send(pid, &control.OpenIndex{Uri: "small"})
	if n := <-got; n != 5 {
		t.Errorf("a message of %d bytes came through", n)
	}
	if err := s.stop(pid); err != nil {
		t.Error(err)
	}
}

// TestWorkerFences: what is of another version, life or epoch is refused.
func TestWorkerFences(t *testing.T) {
	w := newWorld(t, 1)
	to := workerPID(w.members[0])
	ask := func(h *control.Header) (any, error) {
		return w.system.ask(t.Context(), to, &control.Hello{Header: h}, 5*time.Second)
	}
	good := commandHeader("", 5, w.members[0])
	if a, err := ask(good); err != nil {
		t.Fatal(err)
	} else if _, ok := a.(*control.Holding); !ok {
		t.Fatalf("Hello is answered with %T", a)
	}
	for name, c := range map[string]struct {
		h     *control.Header
		class recovery.Class
	}{
		"old epoch":     {commandHeader("", 4, w.members[0]), recovery.Stale},
		"other life":    {&control.Header{Version: control.Version, Epoch: 5, Worker: "w0", Incarnation: 9}, recovery.Stale},
		"other version": {&control.Header{Version: control.Version + 1, Epoch: 5, Worker: "w0", Incarnation: 1}, recovery.Unsupported},
	} {
		a, err := ask(c.h)
		if err != nil {
			t.Fatal(err)
		}
		m, ok := a.(*control.Refused)
		if !ok || recovery.ClassOf(m.GetError().Recover()) != c.class {
			t.Errorf("%s: %T %v", name, a, m)
		}
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	w := newWorld(t, 0)
	deaf := w.system.root.Spawn(actor.PropsFromFunc(func(actor.Context) {}))
	defer func() {
		if err := w.system.stop(deaf); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := w.system.ask(ctx, deaf, &control.Hello{}, time.Hour); recovery.ClassOf(err) != recovery.Cancelled {
		t.Error(err)
	}
	if _, err := w.system.ask(t.Context(), deaf, &control.Hello{}, time.Millisecond); recovery.ClassOf(err) != recovery.Timeout {
		t.Error(err)
	}
	if _, err := w.system.ask(t.Context(), actor.NewPID(w.system.Address(), "nobody"), &control.Hello{}, time.Second); recovery.ClassOf(err) != recovery.WorkerLost {
		t.Error(err)
	}
}

package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// someUsers are one of each role; the password is the name.
var someUsers = []User{{"n", "n", RoleNode}, {"c", "c", RoleClient}, {"p", "p", RoleProgress}}

// connectAs connects as one of someUsers.
func connectAs(t *testing.T, s *Server, user string, more ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := Connect(s.URL(), "", append(more, nats.UserInfo(user, user))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestSubscriptionsOfRoles: a user may subscribe to all of what its role is
// for, with ">" too, and to nothing else.
func TestSubscriptionsOfRoles(t *testing.T) {
	s := startServer(t, ServerOptions{Listen: "127.0.0.1:0", Users: someUsers})
	cases := map[string]map[string]bool{
		"p": {"gantry.v1.progress.>": true, "gantry.v1.progress.*.*": true, "gantry.v1.progress.j.*": true,
			"gantry.v1.event.>": false, "gantry.v1.>": false, ">": false, "_INBOX.>": false},
		"c": {"gantry.v1.progress.>": true, "gantry.v1.event.>": true, "gantry.v1.event.*.failed": true, "_INBOX.>": true,
			"gantry.v1.api.>": false, "gantry.v1.>": false, ">": false, "$KV.>": false},
	}
	for user, subjects := range cases {
		nc := connectAs(t, s, user, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		for subject, may := range subjects {
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil { // the server answers in order
				t.Fatal(err)
			}
			err := nc.LastError()
			refused := errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`)
			if may == refused {
				t.Errorf("user %s, %s: %v", user, subject, err)
			}
		}
	}
	// What is granted arrives.
	screen := connectAs(t, s, "p")
	reports := subscribe(t, screen, "gantry.v1.progress.>")
	if err := connectAs(t, s, "n").Publish(messages.ProgressSubject(messages.Prefix, "j", "w"), nil); err != nil {
		t.Fatal(err)
	}
	receive(t, reports)
}

// lines is a log that is written and read at the same time.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestUsersWithoutRights: NATS's refusal of a subject ends what waits for an
// answer at once, and says who may not do what.
func TestUsersWithoutRights(t *testing.T) {
	s := startServer(t, ServerOptions{Listen: "127.0.0.1:0", Users: someUsers, Log: slog.New(slog.DiscardHandler)})
	var log lines
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	for name, c := range map[string]struct {
		user string
		do   func(nc *nats.Conn) error
		want string
	}{
		"jobs": {"p", func(nc *nats.Conn) error {
			_, err := NewClient(nc).Jobs(t.Context())
			return err
		}, `NATS user "p" may not publish to gantry.v1.api.jobs`},
		"unload": {"p", func(nc *nats.Conn) error { // which has no limit but its caller's
			_, err := NewClient(nc).Unload(t.Context(), "m")
			return err
		}, `NATS user "p" may not publish to gantry.v1.api.unload`},
		"watch": {"p", func(nc *nats.Conn) error {
			_, err := NewClient(nc).WatchJob(t.Context(), "j")
			return err
		}, `NATS user "p" may not publish to $JS.API.STREAM.INFO.KV_gantry-jobs`},
		"worker": {"c", func(nc *nats.Conn) error {
			_, err := Open(t.Context(), nc, Options{})
			return err
		}, `NATS user "c" may not publish to $JS.API.STREAM.`},
	} {
		begun := time.Now()
		err := c.do(connectAs(t, s, c.user))
		wantClass(t, err, recovery.NotAllowed)
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "role") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
	if text := log.String(); strings.Contains(text, "NATS refused") {
		t.Errorf("logged besides: %s", text)
	}
}

// TestNoJetStream: a server without JetStream is told as such.
func TestNoJetStream(t *testing.T) {
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	defer ns.WaitForShutdown()
	defer ns.Shutdown()
	nc, err := connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = Open(t.Context(), nc, Options{})
	wantClass(t, err, recovery.ClusterLost)
	if !strings.Contains(err.Error(), "nats-server -js") {
		t.Errorf("no word of how to turn it on: %v", err)
	}
}

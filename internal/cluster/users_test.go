package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/messages"
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

package cluster

import (
	"github.com/nats-io/nats-server/v2/server"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// Role is what a user of the embedded NATS server may do.
type Role string

// The roles.
const (
	RoleNode     Role = "node"     // everything: coordinators and workers
	RoleClient   Role = "client"   // ask the micro service, watch jobs
	RoleProgress Role = "progress" // subscribe to progress, and nothing else
)

// User is a user of the embedded NATS server.
type User struct {
	Name     string `json:"name"`
	Password string `json:"password"` // or its bcrypt hash
	Role     Role   `json:"role"`
}

// Validate refuses a user without name, password or known role.
func (u User) Validate() error {
	switch {
	case u.Name == "":
		return recovery.Errorf(recovery.Usage, "a NATS user has no name")
	case u.Password == "":
		return recovery.Errorf(recovery.Usage, "NATS user %s has no password", u.Name)
	case u.Role != RoleNode && u.Role != RoleClient && u.Role != RoleProgress:
		return recovery.Errorf(recovery.Usage, "NATS user %s has the role %q: want node, client or progress", u.Name, u.Role)
	}
	return nil
}

// natsUser is the user as the server knows it, in a cluster with the default
// names.
func (u User) natsUser() *server.User {
	return &server.User{Username: u.Name, Password: u.Password, Permissions: u.Role.permissions()}
}

// permissions are nil for all. What a client publishes to is the service, its
// discovery, and of JetStream's API what reads the streams and buckets that
// WatchJob and long replies are read from.
func (r Role) permissions() *server.Permissions {
	n, _ := namesFor("") // the default prefix is valid
	progress, events := n.prefix+".progress.>", n.prefix+".event.>"
	switch r {
	case RoleProgress:
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: []string{">"}},
			Subscribe: &server.SubjectPermission{Allow: []string{progress}},
		}
	case RoleClient:
		publish := []string{messages.APISubject(n.prefix, "*"), "$SRV.>", "$JS.API.INFO"}
		for _, stream := range []string{n.events, n.progress, "KV_" + n.jobs, "OBJ_" + n.plans} {
			publish = append(publish, "$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.MSG.GET."+stream,
				"$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>", "$JS.API.CONSUMER.CREATE."+stream,
				"$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.*."+stream+".>", "$JS.API.CONSUMER.MSG.NEXT."+stream+".>",
				"$JS.ACK."+stream+".>", "$JS.FC."+stream+".>")
		}
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", progress, events}},
		}
	}
	return nil
}

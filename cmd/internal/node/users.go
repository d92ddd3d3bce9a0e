package node

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/internal/settings"
	"github.com/gantry-ml/gantry/recovery"
)

// readUsers reads the users of the embedded NATS server from a YAML or
// JSON file:
//
//	users:
//	  - {name: worker, password: …, role: node}
func readUsers(path string) ([]cluster.User, error) {
	if path == "" {
		return nil, nil
	}
	var file struct {
		Users []cluster.User `json:"users"`
	}
	data, err := settings.Read(path)
	if err == nil {
		err = strict(data, &file)
	}
	if err == nil && len(file.Users) == 0 {
		err = recovery.Errorf(recovery.Usage, "it lists no users")
	}
	for i := 0; err == nil && i < len(file.Users); i++ {
		err = file.Users[i].Validate()
	}
	if err != nil {
		return nil, &recovery.Error{Class: recovery.Usage, Op: "read NATS users", File: path, Err: err}
	}
	return file.Users, nil
}

// strict decodes YAML or JSON; a field that nobody knows is an error.
func strict(data []byte, into any) error {
	fields, err := settings.Decode(data)
	if err != nil {
		return err
	}
	if data, err = json.Marshal(fields); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// password reads the password of --nats-user.
func (s Security) password() (string, error) {
	data, err := os.ReadFile(s.NATSPasswordFile)
	if err != nil {
		return "", &recovery.Error{Class: recovery.Usage, Op: "read --nats-password-file", File: s.NATSPasswordFile, Err: err}
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// A node serves under each of its names, and takes a client of the authority.
func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	if err := Init(dir, []string{"node-7.example", "10.1.2.3"}); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("ca.pem: %v", err)
	}
	pair := func(name string) []tls.Certificate {
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	for _, host := range []string{"node-7.example", "10.1.2.3", "localhost", "127.0.0.1"} {
		for _, caller := range []string{"node", "client"} {
			here, there := net.Pipe()
			server := tls.Server(there, &tls.Config{Certificates: pair("node"), ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13})
			client := tls.Client(here, &tls.Config{Certificates: pair(caller), RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS13})
			served := make(chan error, 1)
			go func() { served <- server.Handshake() }()
			if err := client.Handshake(); err != nil {
				t.Errorf("%s calls %s: %v", caller, host, err)
			}
			if err := <-served; err != nil {
				t.Errorf("%s serves %s: %v", host, caller, err)
			}
			here.Close()
			there.Close()
		}
	}
	for _, name := range []string{"ca.key", "node.key", "client.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if err := Init(dir, nil); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a second authority in the same folder: %v", err)
	}
}

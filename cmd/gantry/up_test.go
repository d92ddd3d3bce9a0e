package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
)

// up runs `gantry up` until the test ends and returns where this machine
// reaches its NATS server, and what it says.
func up(t *testing.T, args ...string) (server string, said *buffer) {
	t.Helper()
	said = &buffer{}
	ctx, cancel := context.WithCancel(t.Context())
	root := (&app{stdout: said, stderr: said}).command()
	root.SetArgs(append([]string{"up"}, args...))
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("up ended with %v", err)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, line, ready := strings.Cut(said.String(), "nats=nats://"); ready {
			_, port, err := net.SplitHostPort(strings.Fields(line)[0])
			if err != nil {
				t.Fatalf("%s: %v", said, err)
			}
			return "nats://127.0.0.1:" + port, said
		}
		if time.Now().After(deadline) {
			t.Fatalf("up is not ready: %s", said)
		}
	}
}

// TestUpBeyondLoopback: up listens where others reach it with the flags that
// its refusal names: with certificates, which clients then need, or with
// --insecure.
func TestUpBeyondLoopback(t *testing.T) {
	everywhere := []string{"--nats-listen", "0.0.0.0:0", "--http", "127.0.0.1:0"}
	code, _, stderr := gantry(t, append([]string{"up"}, everywhere...)...)
	if code != exit.Usage || !strings.Contains(stderr, "--tls-cert") || !strings.Contains(stderr, "--insecure") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	certs := t.TempDir()
	if code, _, stderr := gantry(t, "certs", "init", certs); code != exit.Done {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	pair := func(name string) []string {
		return []string{"--tls-cert", filepath.Join(certs, name+".pem"), "--tls-key", filepath.Join(certs, name+".key"), "--tls-ca", filepath.Join(certs, "ca.pem")}
	}
	server, _ := up(t, append(everywhere, pair("node")...)...)
	if code, _, stderr := gantry(t, append([]string{"workers", "--server", server}, pair("client")...)...); code != exit.Done {
		t.Errorf("with a certificate: exit %d: %s", code, stderr)
	}
	if code, _, _ := gantry(t, "workers", "--server", server); code != exit.Cluster {
		t.Errorf("without a certificate: exit %d, want %d", code, exit.Cluster)
	}
	server, said := up(t, "--nats-listen", "0.0.0.0:0", "--http", "0.0.0.0:0", "--insecure")
	if code, _, stderr := gantry(t, "workers", "--server", server); code != exit.Done {
		t.Errorf("exit %d: %s", code, stderr)
	}
	for _, what := range []string{"INSECURE: NATS", "INSECURE: health"} {
		if !strings.Contains(said.String(), what) {
			t.Errorf("up does not say %q: %s", what, said)
		}
	}
}

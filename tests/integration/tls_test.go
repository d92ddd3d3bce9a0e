package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir(), key: newKey(t), pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	if !a.pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) {
		t.Fatal("the authority's certificate cannot be read")
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// flags are the TLS flags of a node with a certificate of this authority.
func (a *authority) flags(name string) (args []string, pair tls.Certificate) {
	key := newKey(a.t)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return []string{
		"--tls-cert", a.write(name+".pem", "CERTIFICATE", der), "--tls-key", a.write(name+".key", "EC PRIVATE KEY", private),
		"--tls-ca", filepath.Join(a.dir, "ca.pem"),
	}, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestMutualTLS: a cluster whose nodes know each other by certificate loads,
// and who has none, or one of another authority, is kept out.
func TestMutualTLS(t *testing.T) {
	a := newAuthority(t)
	flags, pair := a.flags("node")
	c := &Cluster{t: t, bin: bin, Workers: map[string]*Process{}}
	c.Coordinator = Launch(t, filepath.Join(bin, "coordinator"), "coordinator",
		append(flags, "--nats-listen", "127.0.0.1:0", "--http", "127.0.0.1:0")...)
	c.URL = c.Coordinator.Ready["nats"]
	config := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: a.pool, MinVersion: tls.VersionTLS13}
	var err error
	if c.Conn, err = cluster.Connect(c.URL, "", nats.Secure(config)); err != nil {
		t.Fatal(err)
	}
	defer c.Conn.Close()
	c.Client = cluster.NewClient(c.Conn)
	c.StartWorker("w1", flags...)
	c.StartWorker("w2", flags...)
	if j := c.Load(stories(t, "hf-f32", "tls", 2)); j.State != messages.StateReady {
		t.Fatalf("%s: %s", j.State, j.Why)
	}

	if _, err := cluster.Connect(c.URL, ""); err == nil {
		t.Error("NATS takes a client without a certificate")
	}
	for _, port := range []string{c.Coordinator.Ready["actors"], c.Workers["w1"].Ready["actors"]} {
		if err := handshake(port, &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}); err == nil {
			t.Errorf("actors at %s take a client without a certificate", port)
		}
		good := config.Clone()
		good.NextProtos = []string{"h2"}
		if err := handshake(port, good); err != nil {
			t.Errorf("actors at %s refuse a good certificate: %v", port, err)
		}
	}
	if err := handshake(c.Workers["w1"].Ready["transfer"], &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"gantry-transfer"}}); err == nil {
		t.Error("pieces are taken from a client without a certificate")
	}
	// Of NATS and of the actors; of the actors and of the pieces.
	for p, want := range map[*Process]float64{c.Coordinator: 2, c.Workers["w1"]: 2} {
		c.Until(p.Name+" counts whom it refused", func() bool { return p.metric(t, "gantry_control_refused") >= want })
		if p.find("connection refused") == "" {
			t.Errorf("%s logs nothing of it", p.Name)
		}
	}
	other, _ := newAuthority(t).flags("stranger")
	p := Begin(t, filepath.Join(bin, "worker"), "stranger", append(other, "--nats", c.URL, "--name", "stranger")...)
	if code := p.Wait(); code != 6 {
		t.Errorf("a stranger's exit code is %d: %s", code, p.Last())
	}
}

// handshake connects, and reads, since a TLS 1.3 server refuses a client after
// the client's handshake is done.
func handshake(addr string, config *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// TestRefusals: what is wrong with the settings is one line and an exit code.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, command string
		args          []string
		code          int
		text          string
	}{
		{"no NATS", "worker", nil, 2, "--nats"},
		{"unknown flag", "worker", []string{"--nonsense"}, 2, "--nonsense"},
		{"beyond loopback", "worker", []string{"--nats", "nats://127.0.0.1:1", "--listen", "0.0.0.0:0"}, 2, "not loopback"},
		{"half a TLS", "coordinator", []string{"--tls-cert", "x"}, 2, "--tls-key"},
		{"nobody there", "worker", []string{"--nats", "nats://127.0.0.1:1"}, 6, "127.0.0.1:1"},
		{"no such device", "worker", []string{"--nats", "nats://127.0.0.1:1", "--devices", "cuda:7"}, 5, "cuda:7"},
		{"no such file", "coordinator", []string{"--config", "/no/such/file"}, 2, "/no/such/file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Begin(t, filepath.Join(bin, c.command), c.command, c.args...)
			if code := p.Wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(p.Last(), c.text) {
				t.Errorf("it says %q, want %q in it", p.Last(), c.text)
			}
		})
	}
}

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/recovery"
)

// selfSigned makes a certificate that is its own authority, for both sides.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gantry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestMutualTLS(t *testing.T) {
	cert, pool := selfSigned(t)
	serverTLS := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	_, err := StartServer(ServerOptions{Listen: "127.0.0.1:0", TLS: serverTLS})
	wantClass(t, err, recovery.Usage) // it would take clients without certificates

	serverTLS.ClientAuth = tls.RequireAndVerifyClientCert
	s := startServer(t, ServerOptions{Listen: "127.0.0.1:0", TLS: serverTLS})
	nc, err := Connect(s.URL(), "", nats.Secure(&tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13}))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	for name, client := range map[string]*tls.Config{
		"without a certificate": {RootCAs: pool, MinVersion: tls.VersionTLS13},
		"without the authority": {Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	} {
		nc, err := Connect(s.URL(), "", nats.Secure(client))
		if err == nil {
			nc.Close()
			t.Errorf("a client %s was let in", name)
		}
		wantClass(t, err, recovery.ClusterLost)
	}
	_, err = Connect(s.URL(), "")
	wantClass(t, err, recovery.ClusterLost)
	open(t, s, Options{}) // in memory, no certificate is needed
}

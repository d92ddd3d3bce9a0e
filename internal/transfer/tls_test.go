package transfer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
)

// identity is a node that trusts itself and the given others.
func identity(t *testing.T) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, parsed
}

func trusting(own tls.Certificate, others ...*x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, o := range others {
		pool.AddCert(o)
	}
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
}

// Pieces pass between nodes that know each other by certificate; who has none,
// or one that the other side does not know, gets nothing in.
func TestMutualTLS(t *testing.T) {
	a, aCert := identity(t)
	b, bCert := identity(t)
	stranger, strangerCert := identity(t)
	sink := &memSink{placed: map[int][]byte{}}
	srv, err := Listen("127.0.0.1:0", sink, Security{TLS: trusting(a, bCert)})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	send := func(config *tls.Config, chunk int) error {
		p := &Pool{Security: Security{TLS: config}}
		defer p.Close()
		tk, parts, _ := piece(chunk, 1<<20)
		return p.Send(t.Context(), srv.Addr(), tk, parts)
	}
	if err := send(trusting(b, aCert), 1); err != nil {
		t.Fatal(err)
	}
	none := trusting(b, aCert)
	none.Certificates = nil
	for name, config := range map[string]*tls.Config{
		"no certificate":                     none,
		"a certificate of nobody it knows":   trusting(stranger, aCert),
		"a server that the sender knows not": trusting(b, strangerCert),
	} {
		if err := send(config, 2); recovery.ClassOf(err) != recovery.NotAllowed {
			t.Errorf("%s: %v (%s)", name, err, recovery.ClassOf(err))
		}
	}
	if err := send(nil, 2); err == nil {
		t.Error("a plain stream was taken")
	}
	if sink.piece(2) != nil {
		t.Error("something was placed")
	}
	if _, err := Listen("127.0.0.1:0", sink, Security{TLS: &tls.Config{}}); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("a configuration that asks for no certificate: %v", err)
	}
}

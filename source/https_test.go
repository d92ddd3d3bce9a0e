package source_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
	"github.com/gantry-ml/gantry/source/sourcetest"
)

// authority signs the certificates of test servers.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// trusted is the authority that this process's system roots hold.
var trusted = newAuthority("trusted")

func newAuthority(name string) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert.Raw = der
	return authority{key, cert}
}

// trustAuthority sets SSL_CERT_FILE, as a user with an authority of his own
// does, before the process reads its system roots.
func trustAuthority() (remove func()) {
	dir, err := os.MkdirTemp("", "gantry-ca-")
	if err != nil {
		panic(err)
	}
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.cert.Raw}), 0o600); err != nil {
		panic(err)
	}
	if err := os.Setenv("SSL_CERT_FILE", file); err != nil {
		panic(err)
	}
	return func() { os.RemoveAll(dir) }
}

// serveTLS serves with a certificate for names that ends at end.
func (a authority) serveTLS(t testing.TB, h http.Handler, end time.Time, names ...string) *httptest.Server {
	t.Helper()
	s := a.newTLS(t, h, end, names...)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// newTLS is serveTLS's server, not started yet.
func (a authority) newTLS(t testing.TB, h http.Handler, end time.Time, names ...string) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: end.Add(-2 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are what is tested
	return s
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func TestHTTPSSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T, dir string) source.Source {
		server := trusted.serveTLS(t, http.FileServer(http.Dir(dir)), soon(), "127.0.0.1")
		return open(t, server.URL+"/", source.Options{Names: sourcetest.Names(), Retry: quick})
	})
}

// TestHTTPSCertificates: a server that does not prove who it is is not read
// from, and not asked again.
func TestHTTPSCertificates(t *testing.T) {
	for name, c := range map[string]struct {
		a     authority
		end   time.Time
		names []string
		want  recovery.Class
	}{
		"fine":                 {trusted, soon(), []string{"127.0.0.1"}, ""},
		"of another authority": {newAuthority("another"), soon(), []string{"127.0.0.1"}, recovery.NotAllowed},
		"of another host":      {trusted, soon(), []string{"example.com"}, recovery.NotAllowed},
		"over":                 {trusted, time.Now().Add(-time.Minute), []string{"127.0.0.1"}, recovery.NotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int64
			server := c.a.newTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { content(w, r, `"a"`) }), c.end, c.names...)
			server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					dials.Add(1)
				}
			}
			server.StartTLS()
			t.Cleanup(server.Close)
			s := open(t, server.URL+"/f.safetensors", source.Options{Retry: quick})
			defer s.Close()
			got, err := readHTTP(s)
			if recovery.ClassOf(err) != c.want || err == nil && got != "4567" {
				t.Errorf("read %q, %v; want class %q", got, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), "certificate") {
				t.Errorf("%v does not name the certificate", err)
			}
			if dials.Load() != 1 {
				t.Errorf("%d connections, want 1", dials.Load())
			}
		})
	}
}

// TestHTTPSRedirects: from https to http is refused, since the bytes would
// come unproven; from http to https is followed.
func TestHTTPSRedirects(t *testing.T) {
	var plainAsked atomic.Int64
	plain := serve(t, func(w http.ResponseWriter, r *http.Request) {
		plainAsked.Add(1)
		content(w, r, `"a"`)
	})
	down := trusted.serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path+"?key=secret", http.StatusFound)
	}), soon(), "127.0.0.1")
	s := open(t, down.URL+"/f.safetensors", source.Options{Retry: quick})
	defer s.Close()
	if _, err := readHTTP(s); recovery.ClassOf(err) != recovery.NotAllowed || strings.Contains(err.Error(), "secret") {
		t.Errorf("https to http: %v", err)
	}
	if plainAsked.Load() != 0 {
		t.Errorf("the plain server was asked %d times", plainAsked.Load())
	}
	secure := trusted.serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { content(w, r, `"a"`) }), soon(), "127.0.0.1")
	up := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, secure.URL+r.URL.Path, http.StatusFound)
	})
	s = open(t, up.URL+"/f.safetensors", source.Options{Retry: quick})
	defer s.Close()
	if got, err := readHTTP(s); err != nil || got != "4567" {
		t.Errorf("http to https: %q, %v", got, err)
	}
}

// TestUnreachable: nobody there, and somebody who never answers.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().String() // connections wait in its backlog
	defer l.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	for name, addr := range map[string]string{"refused": gone.Addr().String(), "silent": silent} {
		for _, scheme := range []string{"http", "https"} {
			s := open(t, scheme+"://"+addr+"/f.safetensors", source.Options{Retry: source.RetryPolicy{Retries: -1}, Stall: 50 * time.Millisecond})
			if _, err := readHTTP(s); recovery.ClassOf(err) != recovery.Unreachable {
				t.Errorf("%s, %s: %v", name, scheme, err)
			}
			if _, err := s.Files(context.Background()); recovery.ClassOf(err) != recovery.Unreachable {
				t.Errorf("%s, %s: listing: %v", name, scheme, err)
			}
			s.Close()
		}
	}
}

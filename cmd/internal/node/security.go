package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/telemetry"
)

// Security is who may talk to a process, and as whom it talks to others. The
// zero value is loopback only.
type Security struct {
	Cert, Key string // PEM files of this node's certificate, for serving and calling
	CA        string // PEM file of the authority that signed the others'
	NATSCreds string // credentials file for an external NATS server
	// User and file of the password for a NATS server with users.
	NATSUser, NATSPasswordFile string
	Insecure                   bool // allow addresses beyond loopback without TLS
}

// tls returns the TLS configuration for both directions, nil where none is
// asked for. Clients must have a certificate of the same authority. The
// certificate is read again when its files have changed.
func (s Security) tls() (*tls.Config, error) {
	if s.Cert == "" && s.Key == "" && s.CA == "" {
		return nil, nil
	}
	if s.Cert == "" || s.Key == "" || s.CA == "" {
		return nil, recovery.Errorf(recovery.Usage, "TLS needs all of --tls-cert, --tls-key and --tls-ca")
	}
	own := &certificate{cert: s.Cert, key: s.Key}
	if _, err := own.get(); err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.Usage, Op: "read TLS authority", File: s.CA, Err: err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &recovery.Error{Class: recovery.Usage, Op: "read TLS authority", File: s.CA, Err: errors.New("it holds no PEM certificate")}
	}
	return &tls.Config{
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.get() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get() },
		RootCAs:              pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// refusals makes what hears of strangers: it logs and counts them.
func refusals(log *slog.Logger) (func(who net.Addr, err error), error) {
	metrics, err := telemetry.NewMetrics()
	return func(who net.Addr, err error) {
		metrics.Refused(context.Background(), string(recovery.NotAllowed))
		log.Warn("connection refused", "from", who, "err", err)
	}, err
}

// checkListen refuses an address that others can reach unless both sides are
// known by certificate, and says so where that is overruled.
func (s Security) checkListen(addr string, t *tls.Config, log *slog.Logger) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return recovery.Errorf(recovery.Usage, "--listen %q: want HOST:PORT", addr)
	}
	if !cluster.Loopback(host) && t == nil && !s.Insecure {
		return recovery.Errorf(recovery.Usage, "--listen %s is not loopback: give --tls-cert, --tls-key and --tls-ca, or --insecure", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return recovery.Errorf(recovery.Usage, "--listen %s: name the address at which other nodes reach this one", addr)
	}
	if !cluster.Loopback(host) && t == nil {
		log.Warn("INSECURE: actors listen beyond loopback without TLS: whoever reaches them controls this process", "listen", addr)
	}
	return nil
}

// Connect connects to an external NATS server.
func (s Security) Connect(url string) (*nats.Conn, error) {
	t, err := s.tls()
	if err != nil {
		return nil, err
	}
	return s.connect(url, t)
}

func (s Security) connect(url string, t *tls.Config, more ...nats.Option) (*nats.Conn, error) {
	if t != nil {
		more = append(more, nats.Secure(t))
	}
	if (s.NATSUser == "") != (s.NATSPasswordFile == "") {
		return nil, recovery.Errorf(recovery.Usage, "--nats-user and --nats-password-file belong together")
	}
	if s.NATSUser != "" {
		password, err := s.password()
		if err != nil {
			return nil, err
		}
		more = append(more, nats.UserInfo(s.NATSUser, password))
	}
	return cluster.Connect(url, s.NATSCreds, more...)
}

// logContact logs when a daemon's connection to NATS is lost and when it is back.
func logContact(log *slog.Logger) nats.Option {
	return func(o *nats.Options) error {
		o.DisconnectedErrCB = func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				log.Warn("NATS is away, waiting for it", "err", err)
			}
		}
		o.ReconnectedCB = func(*nats.Conn) { log.Info("NATS is back") }
		return nil
	}
}

package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/gantry-ml/gantry/recovery"
)

// Limits of the embedded server's JetStream, in bytes. What Gantry keeps there
// is small: records of jobs, indexes, events. The streams and buckets of one
// prefix reserve about 380 MiB of the store, of which they use what they need.
const (
	serverMemory = 16 << 20
	serverStore  = 4 << 30
)

// startTimeout is how long the embedded server may take to be ready; it takes
// about 30 ms, more where StateDir holds much.
const startTimeout = 15 * time.Second

// ServerOptions says how to run the embedded NATS server. The zero value has
// no TCP port and keeps its state in a temporary directory.
type ServerOptions struct {
	Listen   string       // host:port, port 0 for any; "" opens no port
	StateDir string       // "" is a temporary directory, removed at Close
	TLS      *tls.Config  // must ask for client certificates; needed beyond loopback
	Insecure bool         // allow a port beyond loopback without TLS
	Users    []User       // who may connect; none: anybody
	Log      *slog.Logger // nil is slog.Default()
	Refused  func()       // counts what the server refused; nil counts nothing
}

// Server is a NATS server in this process, with JetStream.
type Server struct {
	ns      *server.Server
	own     User // this process's, where there are users
	tempDir string
}

// StartServer starts an embedded server and returns when it takes connections.
// The caller closes it.
func StartServer(o ServerOptions) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	opts := &server.Options{
		ServerName:         "gantry",
		DontListen:         o.Listen == "",
		JetStream:          true,
		JetStreamMaxMemory: serverMemory,
		JetStreamMaxStore:  serverStore,
		NoSigs:             true,
	}
	if o.Listen != "" {
		host, port, err := listenAddress(o)
		if err != nil {
			return nil, err
		}
		opts.Host, opts.Port = host, port
	}
	if o.TLS != nil {
		opts.TLS, opts.TLSConfig, opts.TLSVerify = true, o.TLS, true
		opts.TLSTimeout = 5
	}
	s := &Server{}
	if len(o.Users) > 0 {
		s.own = User{Name: "gantry-" + nuid.Next(), Password: nuid.Next() + nuid.Next(), Role: RoleNode}
		for _, u := range append(o.Users, s.own) {
			if err := u.Validate(); err != nil {
				return nil, err
			}
			opts.Users = append(opts.Users, u.natsUser())
		}
	}
	dir := o.StateDir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "gantry-nats-"); err != nil {
			return nil, fmt.Errorf("cluster: state of the embedded NATS server: %w", err)
		}
		s.tempDir = dir
	}
	opts.StoreDir = filepath.Join(dir, "nats")
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(recovery.Errorf(recovery.Usage, "embedded NATS server: %w", err), s.removeTemp())
	}
	s.ns = ns
	fatal := make(chan string, 1)
	ns.SetLoggerV2(serverLog{o.Log, o.Refused, fatal}, false, false, false)
	ns.Start()
	if class, why := s.awaitStart(fatal); why != "" {
		err := recovery.Errorf(class, "embedded NATS server at %q, state in %s: %s", o.Listen, dir, why)
		if closing := s.Close(); closing != nil {
			o.Log.Warn("embedded NATS server that did not start", "err", closing)
		}
		return nil, err
	}
	return s, nil
}

// awaitStart returns "" when the server takes connections, or at once why it
// never will: what it says as its last words is heard in fatal.
func (s *Server) awaitStart(fatal <-chan string) (class recovery.Class, why string) {
	for end := time.Now().Add(startTimeout); time.Now().Before(end); {
		ready := s.ns.ReadyForConnections(50 * time.Millisecond)
		select {
		case why := <-fatal:
			return recovery.Usage, why
		default:
		}
		switch {
		case ready && s.ns.JetStreamEnabled():
			return "", ""
		case ready: // which it is before JetStream
			time.Sleep(5 * time.Millisecond)
		}
	}
	return recovery.ClusterLost, fmt.Sprintf("not ready after %s", startTimeout)
}

// listenAddress splits Listen, and refuses an address that others can reach
// unless both sides are known by certificate.
func listenAddress(o ServerOptions) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(o.Listen)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, recovery.Errorf(recovery.Usage, "NATS listen address %q: want HOST:PORT", o.Listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if o.TLS != nil && o.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return "", 0, recovery.Errorf(recovery.Usage, "NATS listen address %q: its TLS configuration does not require client certificates: give --tls-ca", o.Listen)
	}
	if Loopback(host) || o.TLS != nil {
		return host, port, nil
	}
	if !o.Insecure {
		return "", 0, recovery.Errorf(recovery.Usage, "NATS listen address %q is not loopback: give --tls-cert, --tls-key and --tls-ca, or --insecure", o.Listen)
	}
	o.Log.Warn("INSECURE: NATS listens beyond loopback without TLS: whoever reaches it controls this cluster", "listen", o.Listen)
	return host, port, nil
}

// Loopback reports whether a host, as in HOST:PORT, can be reached from this
// machine only. The empty host means all interfaces and is not.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Connect returns a connection that passes through memory, not a socket.
func (s *Server) Connect() (*nats.Conn, error) {
	options := []nats.Option{nats.InProcessServer(s.ns)}
	if s.own.Name != "" {
		options = append(options, nats.UserInfo(s.own.Name, s.own.Password))
	}
	return connect("", options...)
}

// URL returns where clients connect, or "" where no port is open.
func (s *Server) URL() string {
	a, ok := s.ns.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return "nats://" + a.String()
}

// Close stops the server and waits until it has stopped.
func (s *Server) Close() error {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
	return s.removeTemp()
}

func (s *Server) removeTemp() error {
	if s.tempDir == "" {
		return nil
	}
	if err := os.RemoveAll(s.tempDir); err != nil {
		return fmt.Errorf("cluster: state of the embedded NATS server: %w", err)
	}
	return nil
}

// serverLog passes on the server's warnings and errors. Its notices (a banner
// of twenty lines at each start) only show at debug level.
type serverLog struct {
	log     *slog.Logger
	refused func()
	fatal   chan<- string // the first thing that ends the server; the one that starts it tells
}

func (l serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Warnf(format string, v ...any) { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	for _, what := range []string{"Violation", "authentication error", "TLS handshake error"} {
		if l.refused != nil && strings.Contains(text, what) {
			l.refused()
			break
		}
	}
	l.log.Error("nats: " + text)
}

// Fatalf hands over why the server cannot go on, which StartServer returns.
func (l serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	select {
	case l.fatal <- text:
	default: // there is a reason already
		l.log.Error("nats: " + text)
	}
}
func (l serverLog) Debugf(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Tracef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }

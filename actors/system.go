package actors

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/gantry-ml/gantry/recovery"
)

// Settings of the connections between actor systems, and why.
const (
	// A frozen peer (stopped, or its network gone) is noticed by keepalive
	// only: without it, never.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
	keepaliveMin     = 5 * time.Second // what a server lets its clients do

	// Remote packs up to a batch of messages into one gRPC message; one over
	// the receiver's limit is lost whole, with no dead letter. A batch of 64
	// messages of at most 64 KiB stays far under 64 MiB.
	writerBatch = 64
	// The queue to each peer begins with so many places and grows as it must.
	// The default, a million, is 16 MB for each process that was ever talked to,
	// of which each message touches a little more.
	writerQueue = 1 << 10
	maxReceive  = 64 << 20

	// A dead address is tried once: each further try blocks the messages
	// behind it for two seconds.
	connectTries = 1
)

// SystemOptions configures a System. The zero value is an actor system for
// one process, without a network.
type SystemOptions struct {
	// Listen is the host and port that other processes reach this system's
	// actors at; port 0 picks one. "" means none do: no port is opened.
	Listen string
	// TLS, where set, is used for both directions: its certificates serve and
	// call, its RootCAs check servers, its ClientCAs clients, who must have a
	// certificate.
	TLS *tls.Config
	// Refused, where set, hears of who shows no good certificate.
	Refused func(who net.Addr, err error)
	// Log gets what protoactor has to say; nil is slog.Default.
	Log *slog.Logger
}

// System is the actor system of a process, with its remote where it listens.
// A process has at most one that listens: two race at start and shutdown.
type System struct {
	actors *actor.ActorSystem
	remote *remote.Remote
	root   *actor.RootContext
	log    *slog.Logger

	questions questions
}

// NewSystem starts an actor system. It fails with class usage where it cannot
// listen.
func NewSystem(o SystemOptions) (s *System, err error) {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	as := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(quiet{log.Handler()}).With("component", "actors")
	}))
	s = &System{actors: as, log: log}
	s.root = as.Root.Copy().WithSenderMiddleware(s.refuseLarge, injectTrace(context.Background()))
	if o.Listen == "" {
		return s, nil
	}
	// Remote panics where it cannot listen.
	defer func() {
		if r := recover(); r != nil {
			err = &recovery.Error{Class: recovery.Usage, Op: "listen", File: o.Listen, Err: fmt.Errorf("%v", r), Hint: "choose another --listen address"}
		}
	}()
	host, portText, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "listen address %q: %v", o.Listen, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, recovery.Errorf(recovery.Usage, "listen address %q: port %q is not a number", o.Listen, portText)
	}
	s.remote = remote.NewRemote(as, remoteConfig(host, port, o))
	s.remote.Start()
	return s, nil
}

// remoteConfig returns the settings of the remote, each of which is there for
// a failure that was seen without it.
func remoteConfig(host string, port int, o SystemOptions) *remote.Config {
	server := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	}
	// Dial options replace the default, which is an insecure connection.
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		serving := o.TLS.Clone()
		serving.ClientAuth = tls.RequireAndVerifyClientCert
		server = append(server, grpc.Creds(watched{credentials.NewTLS(serving), o.Refused}))
		creds = credentials.NewTLS(o.TLS)
	}
	return remote.Configure(host, port,
		remote.WithServerOptions(server...),
		remote.WithDialOptions(
			grpc.WithTransportCredentials(creds),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		),
		remote.WithEndpointWriterBatchSize(writerBatch),
		remote.WithEndpointWriterQueueSize(writerQueue),
		func(c *remote.Config) { c.MaxRetryCount = connectTries }, // has no option function
	)
}

// watched are credentials that tell of handshakes that fail.
type watched struct {
	credentials.TransportCredentials
	refused func(net.Addr, error)
}

// ServerHandshake implements credentials.TransportCredentials.
func (w watched) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := w.TransportCredentials.ServerHandshake(c)
	if err != nil && w.refused != nil {
		w.refused(c.RemoteAddr(), err)
	}
	return secured, info, err
}

// Clone implements credentials.TransportCredentials.
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.refused}
}

// Address is where other systems reach this one's actors, or protoactor's
// word for "nowhere" in a system without a network.
func (s *System) Address() string { return s.actors.Address() }

// Close stops the network side and then the system. Its actors must have been
// stopped before.
func (s *System) Close() {
	if s.remote != nil {
		// Not gracefully: that waits for the other side, up to 10 s, and writes
		// a flag of protoactor's while its receivers read it.
		s.remote.Shutdown(false)
	}
	s.actors.Shutdown()
}

// ask sends m to pid and waits for its answer. An address that cannot be
// reached is class worker_lost, no answer in time class timeout. An actor of
// its own hears the answer: protoactor's futures are not made for a second one.
func (s *System) ask(ctx context.Context, pid *actor.PID, m any, limit time.Duration) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, over := s.questions.begin(ctx, pid.Address)
	defer over()
	answers := make(chan any, 1)
	ear := s.root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		switch answer := c.Message().(type) {
		case *actor.Started, *actor.Stopping, *actor.Stopped:
		default:
			select {
			case answers <- answer:
			default: // the first one counts
			}
		}
	}))
	defer s.root.Stop(ear)
	s.root.Copy().WithSenderMiddleware(s.refuseLarge, injectTrace(ctx)).RequestWithCustomSender(pid, m, ear)
	select {
	case answer := <-answers:
		if _, dead := answer.(*actor.DeadLetterResponse); dead {
			return nil, recovery.Errorf(recovery.WorkerLost, "%s at %s is not there", pid.Id, pid.Address)
		}
		return answer, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, recovery.Errorf(recovery.Timeout, "%s at %s does not answer", pid.Id, pid.Address)
		}
		return nil, recovery.Errorf(recovery.ClassOf(err), "ask %s: %w", pid.Id, err)
	}
}

// askEvery is after how long askAgain asks again.
const askEvery = 2 * time.Second

// askAgain asks until there is an answer: a message may be lost on its way
// there, or back. Whoever is asked must not mind.
func (s *System) askAgain(ctx context.Context, pid *actor.PID, m any, limit time.Duration) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		answer, err := s.ask(ctx, pid, m, askEvery)
		if recovery.ClassOf(err) != recovery.Timeout || ctx.Err() != nil {
			return answer, err
		}
	}
}

// stop ends the actor and waits until it and its children are gone.
func (s *System) stop(pid *actor.PID) error {
	if err := s.actors.Root.StopFuture(pid).Wait(); err != nil && !errors.Is(err, actor.ErrDeadLetter) {
		return fmt.Errorf("actors: stop %s: %w", pid.Id, err)
	}
	return nil
}

// samePID reports whether two PIDs name one actor. PIDs are compared by value:
// each caches its process, so one object is never shared between systems.
func samePID(a, b *actor.PID) bool {
	return a != nil && b != nil && a.Address == b.Address && a.Id == b.Id
}

// quiet lowers protoactor's chatter by one level: a lost connection is an
// error to it, and a matter of course to us.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, lower(l))
}
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(n string) slog.Handler      { return quiet{q.Handler.WithGroup(n)} }

func lower(l slog.Level) slog.Level { return l - 4 }

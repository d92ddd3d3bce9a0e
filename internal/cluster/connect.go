package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/recovery"
)

// Connect connects to a NATS server. creds is a credentials file, or "".
// Options are added after Gantry's own (nats.Secure for TLS). A server that
// does not answer is class ClusterLost; one that goes away later is tried
// again for as long as the connection is not closed.
func Connect(url, creds string, more ...nats.Option) (*nats.Conn, error) {
	if creds != "" {
		more = append([]nats.Option{nats.UserCredentials(creds)}, more...)
	}
	return connect(url, more...)
}

func connect(url string, more ...nats.Option) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Name("gantry"),
		nats.Timeout(3 * time.Second),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond),
		// A frozen server is noticed after two missed pings.
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		// A permission violation shows here and nowhere else.
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) && tellRefusal(nc, err) {
				return
			}
			if errors.Is(err, nats.ErrConsumerNotActive) {
				slog.Debug("a watch was interrupted and goes on", "error", err) // NATS is away, or was
				return
			}
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			slog.Warn("NATS refused or dropped something", "subject", subject, "error", err)
		}),
	}, more...)
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.ClusterLost, Op: "connect to", File: url, Err: err,
			Hint: "is a coordinator or `gantry up` running there?"}
	}
	return nc, nil
}

// classify gives a NATS error its class, and says what was being done.
func classify(op string, err error) error {
	var known *recovery.Error
	var api *jetstream.APIError
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant),
		errors.Is(err, jetstream.ErrKeyExists):
		return &recovery.Error{Class: recovery.Stale, Op: op, Err: errors.New("somebody else wrote it first")}
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrObjectNotFound):
		return &recovery.Error{Class: recovery.NotFound, Op: op, Err: errors.New("there is none")}
	case errors.Is(err, context.Canceled):
		return &recovery.Error{Class: recovery.Cancelled, Op: op, Err: err}
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return &recovery.Error{Class: recovery.ClusterLost, Op: op, Err: fmt.Errorf("JetStream does not answer at this NATS server: %w", err),
			Hint: "if it is not on, start the server with nats-server -js"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout),
		errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected), errors.Is(err, jetstream.ErrNoStreamResponse):
		return &recovery.Error{Class: recovery.ClusterLost, Op: op, Err: fmt.Errorf("NATS does not answer: %w", err)}
	}
	return &recovery.Error{Class: recovery.Internal, Op: op, Err: err}
}

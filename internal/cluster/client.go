package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// clientTimeout is how long a call waits where ctx has no deadline: longer
// than the service's own limit, so that its answer says what took so long.
const clientTimeout = requestTimeout + 5*time.Second

// changeOver is how long a call tries again while nobody leads: as long as a
// standby may take. changePause is between the tries. silence is how long a try
// waits for its answer: a leader that was killed or frozen gives none.
const (
	changeOver  = 4 * time.Second
	changePause = 200 * time.Millisecond
	silence     = 2 * time.Second
)

// Client asks a cluster's leader. Its methods are the verbs of API; errors
// carry the class that the leader gave, or ClusterLost where none answers.
type Client struct {
	nc        *nats.Conn
	names     names
	awayLimit time.Duration // of a watch
}

// NewClient returns a client over a connection, which stays the caller's.
func NewClient(nc *nats.Conn) *Client {
	n, _ := namesFor("") // the default prefix is valid
	return &Client{nc: nc, names: n, awayLimit: AwayLimit}
}

// NewClientAt is NewClient for a cluster with another subject prefix.
func NewClientAt(nc *nats.Conn, prefix string) (*Client, error) {
	n, err := namesFor(prefix)
	return &Client{nc: nc, names: n, awayLimit: AwayLimit}, err
}

// Away reports whether NATS is out of reach now, as far as is known: one that is
// frozen is noticed after some seconds.
func (c *Client) Away() bool { return !c.nc.IsConnected() }

// Load submits a job and returns it as it is then.
func (c *Client) Load(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	return ask[messages.Job](ctx, c, verbLoad, q)
}

// Swap submits a load whose model takes the place of the resident one of its
// name when all of it is ready.
func (c *Client) Swap(ctx context.Context, q messages.LoadRequest) (messages.Job, error) {
	return ask[messages.Job](ctx, c, verbSwap, q)
}

// Plan returns what a load would do.
func (c *Client) Plan(ctx context.Context, q messages.LoadRequest) (*shard.Plan, error) {
	raw, err := ask[json.RawMessage](ctx, c, verbPlan, q)
	if err != nil {
		return nil, err
	}
	return shard.ParsePlan(raw)
}

// Status returns a job, the newest for "".
func (c *Client) Status(ctx context.Context, job string) (messages.Job, error) {
	return ask[messages.Job](ctx, c, verbStatus, messages.JobRequest{Job: job})
}

// Jobs returns all jobs, newest first.
func (c *Client) Jobs(ctx context.Context) ([]messages.Job, error) {
	return ask[[]messages.Job](ctx, c, verbJobs, nothing{})
}

// Cancel stops a job. The reason is for its events.
func (c *Client) Cancel(ctx context.Context, job, reason string) (messages.Job, error) {
	return ask[messages.Job](ctx, c, verbCancel, messages.JobRequest{Job: job, Reason: reason})
}

// Models returns the resident models.
func (c *Client) Models(ctx context.Context) ([]messages.Model, error) {
	return ask[[]messages.Model](ctx, c, verbModels, nothing{})
}

// Unload frees a resident model and returns what it was.
func (c *Client) Unload(ctx context.Context, name string) (messages.Model, error) {
	return ask[messages.Model](ctx, c, verbUnload, messages.ModelRequest{Name: name})
}

// Export begins to write a resident model, or says how far that is: ask with
// the same export id until the state is final.
func (c *Client) Export(ctx context.Context, q messages.ExportRequest) (messages.Export, error) {
	return ask[messages.Export](ctx, c, verbExport, q)
}

// Workers returns the members of the cluster.
func (c *Client) Workers(ctx context.Context) ([]messages.Worker, error) {
	return ask[[]messages.Worker](ctx, c, verbWorkers, nothing{})
}

// ask sends a request and reads its reply.
func ask[R any](ctx context.Context, c *Client, verb string, q any) (reply R, err error) {
	subject := messages.APISubject(c.names.prefix, verb)
	ctx, span := startSpan(ctx, "send", subject, trace.SpanKindProducer)
	defer func() { endSpan(span, err) }()
	m := nats.NewMsg(subject)
	w3c.Inject(ctx, headers(m.Header))
	if m.Data, err = json.Marshal(q); err != nil {
		return reply, classify(verb, err)
	}
	var cancel context.CancelFunc
	if _, limited := ctx.Deadline(); limited {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, clientTimeout)
	}
	defer cancel()
	end := awaitRefusal(c.nc, m.Subject, cancel)
	data, err := c.insist(ctx, verb, m)
	if err = end(verb, err); err != nil {
		return reply, err
	}
	if err = json.Unmarshal(data, &reply); err != nil {
		return reply, classify(verb, err)
	}
	return reply, nil
}

// errNobodyLeads is in the error of a request that no leader has answered.
var errNobodyLeads = errors.New("no coordinator leads this cluster")

// insist sends a request until a leader answers: all but those that take long
// may be sent twice.
func (c *Client) insist(ctx context.Context, verb string, m *nats.Msg) ([]byte, error) {
	nobody := time.Time{} // since when nobody leads
	for {
		try, cancel := ctx, context.CancelFunc(func() {})
		if verb != verbPlan && verb != verbUnload {
			try, cancel = context.WithTimeout(ctx, silence)
		}
		data, err := c.request(try, verb, m)
		silent := try.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case silent:
			nobody = time.Time{}
		case !errors.Is(err, errNobodyLeads) || !nobody.IsZero() && time.Since(nobody) > changeOver || ctx.Err() != nil:
			return data, err
		case nobody.IsZero():
			nobody = time.Now()
		}
		time.Sleep(changePause)
	}
}

// request sends a request once.
func (c *Client) request(ctx context.Context, verb string, m *nats.Msg) ([]byte, error) {
	r, err := c.nc.RequestMsgWithContext(ctx, m)
	if err != nil && !errors.Is(err, nats.ErrNoResponders) {
		return nil, classify(verb, err)
	}
	if err == nil {
		data, err := c.read(ctx, verb, r)
		if recovery.ClassOf(err) != recovery.ClusterLost {
			return data, err
		}
	}
	return nil, &recovery.Error{Class: recovery.ClusterLost, Op: verb, Err: errNobodyLeads, Hint: "start one, or wait for a standby to take over"}
}

// read returns the body of a reply, or the error that it carries.
func (c *Client) read(ctx context.Context, verb string, r *nats.Msg) ([]byte, error) {
	if r.Header.Get(micro.ErrorCodeHeader) != "" {
		var refused errorReply
		if err := json.Unmarshal(r.Data, &refused); err != nil || refused.Error.Message == "" {
			return nil, recovery.Errorf(recovery.Internal, "%s: %s", verb, r.Header.Get(micro.ErrorHeader))
		}
		return nil, recovery.Errorf(refused.Error.Class, "%s", refused.Error.Message)
	}
	digest := r.Header.Get(objectHeader)
	if digest == "" {
		return r.Data, nil
	}
	js, err := jetstream.New(c.nc)
	if err != nil {
		return nil, classify(verb, err)
	}
	objects, err := js.ObjectStore(ctx, c.names.plans)
	if err != nil {
		return nil, classify(verb, err)
	}
	return (&Plans{objects: objects}).Get(ctx, digest)
}

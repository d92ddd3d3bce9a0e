package cluster

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
)

// The lease of DESIGN.md section 4: a dead process is lost after TTL, a busy
// one has four chances to renew.
const (
	DefaultLeaseTTL   = 2 * time.Second
	DefaultLeaseRenew = 500 * time.Millisecond
)

// markerTTL is how long the mark of an ended lease stays, so that a watcher
// that was cut off hears of it afterwards.
const markerTTL = time.Minute

// How long things are kept. Models have no limit: they are the truth.
const (
	jobsAge   = 30 * 24 * time.Hour
	plansAge  = 7 * 24 * time.Hour
	eventsAge = 7 * 24 * time.Hour
)

// Options says how a process takes part in a cluster. The zero value is the
// default.
type Options struct {
	Prefix     string        // of subjects; "" is messages.Prefix
	LeaseTTL   time.Duration // at least 1 s, which is what NATS can count; 0 is DefaultLeaseTTL
	LeaseRenew time.Duration // 0 is a quarter of LeaseTTL
}

// Cluster is what a process sees of its cluster: streams, buckets, leases.
type Cluster struct {
	Jobs   *Jobs
	Models *Models
	Plans  *Plans

	nc      *nats.Conn
	js      jetstream.JetStream
	members jetstream.KeyValue
	leader  jetstream.KeyValue
	names   names
	contact contact
	ttl     time.Duration
	renew   time.Duration
}

// Open makes what is missing of the streams and buckets and returns the
// cluster on a connection, which stays the caller's. Several processes may
// open the same cluster at once.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Cluster, error) {
	n, err := namesFor(o.Prefix)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, classify("open the cluster", err)
	}
	c := &Cluster{nc: nc, js: js, names: n, ttl: o.LeaseTTL, renew: o.LeaseRenew}
	if c.ttl == 0 {
		c.ttl = DefaultLeaseTTL
	}
	c.ttl = max(c.ttl, time.Second)
	if c.renew <= 0 {
		c.renew = c.ttl / 4
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := awaitRefusal(nc, "", cancel)
	if err := end("open the cluster", c.setup(ctx)); err != nil {
		return nil, classify("open the cluster", err)
	}
	return c, nil
}

// names are what a prefix's streams and buckets are called. A prefix of one's
// own has its own set, so that two clusters may share a NATS account.
type names struct {
	prefix, events, progress             string
	jobs, models, members, leader, plans string
}

func namesFor(prefix string) (names, error) {
	tag := ""
	switch prefix {
	case "", messages.Prefix:
		prefix = messages.Prefix
	default:
		if err := messages.CheckPrefix(prefix); err != nil {
			return names{}, err
		}
		tag = strings.ReplaceAll(prefix, ".", "_")
	}
	name := func(base, join string) string {
		if tag == "" {
			return base
		}
		return base + join + tag
	}
	return names{
		prefix: prefix, events: name("GANTRY_EVENTS", "_"), progress: name("GANTRY_PROGRESS", "_"),
		jobs: name("gantry-jobs", "-"), models: name("gantry-models", "-"), members: name("gantry-members", "-"),
		leader: name("gantry-leader", "-"), plans: name("gantry-plans", "-"),
	}, nil
}

// setup makes what is missing and keeps the handles.
func (c *Cluster) setup(ctx context.Context) error {
	b, err := c.ensureAll(ctx)
	if err != nil {
		return err
	}
	c.members, c.leader = b.members, b.leader
	c.Jobs, c.Models, c.Plans = newJobs(b.jobs), newModels(b.models), &Plans{objects: b.plans}
	return nil
}

// restore makes anew what a server that came back without its store has not. The
// handles are good for what has the same name.
func (c *Cluster) restore(ctx context.Context) error {
	_, err := c.ensureAll(ctx)
	return classify("make streams and buckets anew", err)
}

// gone reports whether an error says that a stream or bucket is not there.
func gone(err error) bool {
	for _, target := range []error{jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound, nats.ErrNoResponders} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// buckets are handles of all that is stored, but for the streams.
type buckets struct {
	jobs, models, members, leader jetstream.KeyValue
	plans                         jetstream.ObjectStore
}

func (c *Cluster) ensureAll(ctx context.Context) (b buckets, err error) {
	n := c.names
	streams := []jetstream.StreamConfig{
		{Name: n.events, Description: "facts about jobs", Subjects: []string{n.prefix + ".event.>"},
			MaxAge: eventsAge, MaxBytes: 32 << 20, MaxMsgSize: 64 << 10, Discard: jetstream.DiscardOld},
		{Name: n.progress, Description: "the last report of each worker about each job", Subjects: []string{n.prefix + ".progress.>"},
			MaxAge: eventsAge, MaxBytes: 8 << 20, MaxMsgSize: 16 << 10, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld},
		leaderStream(n.leader),
	}
	for _, s := range streams {
		if err := c.ensureStream(ctx, s); err != nil {
			return b, err
		}
	}
	b.jobs, err = c.ensureBucket(ctx, jetstream.KeyValueConfig{Bucket: n.jobs, Description: "state of jobs", History: 1, TTL: jobsAge, MaxBytes: 64 << 20, MaxValueSize: 1 << 20})
	if err != nil {
		return b, err
	}
	b.models, err = c.ensureBucket(ctx, jetstream.KeyValueConfig{Bucket: n.models, Description: "resident models", History: 1, MaxBytes: 16 << 20, MaxValueSize: 1 << 20})
	if err != nil {
		return b, err
	}
	// History 1 and LimitMarkerTTL: with more history the server raises a
	// short key TTL, without a marker no watcher hears of an expiry.
	b.members, err = c.ensureBucket(ctx, jetstream.KeyValueConfig{Bucket: n.members, Description: "leases of workers", History: 1, LimitMarkerTTL: markerTTL, MaxBytes: 4 << 20, MaxValueSize: 64 << 10})
	if err != nil {
		return b, err
	}
	if b.leader, err = c.js.KeyValue(ctx, n.leader); err != nil {
		return b, err
	}
	b.plans, err = c.ensureObjects(ctx, jetstream.ObjectStoreConfig{Bucket: n.plans, Description: "indexes and plans by digest", TTL: plansAge, MaxBytes: 256 << 20})
	return b, err
}

// leaderStream is the stream of the leader's bucket, by the layout of NATS
// ADR-8. It is made by hand for FirstSeq: the key's revision is the epoch by
// which workers fence, and it must grow even when a server starts again with
// an empty store.
func leaderStream(bucket string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + bucket, Description: "lease of the leader", Subjects: []string{"$KV." + bucket + ".>"},
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: 1 << 20, MaxMsgSize: 4 << 10, Discard: jetstream.DiscardNew,
		AllowRollup: true, DenyDelete: true, AllowDirect: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
		FirstSeq: uint64(time.Now().UnixMilli()),
	}
}

// ensureStream makes a stream where there is none. One that is there stays as
// it is, also where an operator has given it other limits.
func (c *Cluster) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	_, err := ensure(jetstream.ErrStreamNotFound,
		func() (jetstream.Stream, error) { return c.js.Stream(ctx, cfg.Name) },
		func() (jetstream.Stream, error) { return c.js.CreateStream(ctx, cfg) })
	return err
}

func (c *Cluster) ensureBucket(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	return ensure(jetstream.ErrBucketNotFound,
		func() (jetstream.KeyValue, error) { return c.js.KeyValue(ctx, cfg.Bucket) },
		func() (jetstream.KeyValue, error) { return c.js.CreateKeyValue(ctx, cfg) })
}

func (c *Cluster) ensureObjects(ctx context.Context, cfg jetstream.ObjectStoreConfig) (jetstream.ObjectStore, error) {
	return ensure(jetstream.ErrBucketNotFound,
		func() (jetstream.ObjectStore, error) { return c.js.ObjectStore(ctx, cfg.Bucket) },
		func() (jetstream.ObjectStore, error) { return c.js.CreateObjectStore(ctx, cfg) })
}

// ensure finds a thing or makes it. Where making fails because somebody else
// is making it (which shows as one of several errors: the name is taken, the
// space for it is reserved twice for a moment), the thing is there when it is
// looked for again.
func ensure[T any](missing error, find, create func() (T, error)) (T, error) {
	thing, err := find()
	if !errors.Is(err, missing) {
		return thing, err
	}
	thing, err = create()
	if err == nil {
		return thing, nil
	}
	if found, findErr := find(); findErr == nil {
		return found, nil
	}
	return thing, err
}

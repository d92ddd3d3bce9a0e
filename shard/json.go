package shard

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
)

// JSON returns the plan in its canonical form: equal plans, equal bytes.
func (p *Plan) JSON() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("shard: write plan: %w", err)
	}
	return b, nil
}

// ParsePlan reads what JSON wrote, and refuses a plan of another version or
// one that points outside itself.
func ParsePlan(b []byte) (*Plan, error) {
	p := new(Plan)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, badPlan("%w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, badPlan("something follows it")
	}
	if p.Version != Version {
		return nil, badPlan("it has version %d, this program reads version %d", p.Version, Version)
	}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		s, err := quant.Parse(t.Scheme)
		if err != nil {
			return nil, badPlan("tensor %q: %w", t.Name, err)
		}
		if err := t.derive(s); err != nil {
			return nil, badPlan("tensor %q: %w", t.Name, err)
		}
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func badPlan(format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: "read plan", Err: fmt.Errorf(format, args...), Hint: "plan again"}
}

// Digest returns the xxh3-128 of the plan's JSON, in hex.
func (p *Plan) Digest() string { return mustDigest(p) }

// Fingerprint names what a rank holds: ranks with the same fingerprint hold
// the same bytes at the same places. It covers the format's version, the
// checkpoint, the scheme, the layout and the rank's position in it, and what
// each of its tensors becomes. The copies of a dp layout share it, and the
// size of chunks does not matter to it (unless it decided what a tensor
// becomes).
func (p *Plan) Fingerprint(rank int) string {
	r := p.Ranks[rank]
	become := make([]string, len(r.Slices))
	for i, s := range r.Slices {
		become[i] = p.Tensors[s.Tensor].Scheme
	}
	layout := p.Options.Layout
	layout.DP, r.DP, r.Rank = 1, 0, layout.Rank(0, r.PP, r.EP, r.TP)
	return mustDigest(struct {
		Version    int
		Checkpoint string
		Scheme     string
		Layout     Layout
		Rank       Rank
		Become     []string
	}{p.Version, p.Checkpoint, p.Options.Scheme, layout, r, become})
}

// InFirstCopy returns the rank of the first copy that holds the same bytes as
// the given one: itself, where that is of the first copy.
func (p *Plan) InFirstCopy(rank int) int {
	return rank % (len(p.Ranks) / max(p.Options.Layout.DP, 1))
}

// mustDigest returns the xxh3-128 of v's JSON, in hex. v is a plan or a part
// of one, whose every value JSON can write.
func mustDigest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("shard: digest of a plan: %v", err))
	}
	sum := xxh3.Hash128(b).Bytes()
	return hex.EncodeToString(sum[:])
}

package integration

import (
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/internal/testmodels"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

// TestLayouts: experts, fused weights, rules and padding over three processes
// end in the bytes that one process gives: coordinator and workers have made
// the same plan of the request.
func TestLayouts(t *testing.T) {
	c := StartCluster(t, bin, 3)
	for id, x := range map[string]struct {
		family   string
		o        shard.Options
		warnings int
	}{
		"experts": {"mixtral", shard.Options{Layout: shard.Layout{TP: 2, EP: 2, DP: 2}, Scheme: "q8_0"}, 1}, // of blocks that are cut
		"stacked": {"stacked", shard.Options{Layout: shard.Layout{EP: 4, TP: 2}, Scheme: "q4_0"}, 1},
		"fused":   {"phi3", shard.Options{Layout: shard.Layout{TP: 4}, Scheme: "int8", PadVocab: 64}, 0},
		"conv1d":  {"gpt2", shard.Options{Layout: shard.Layout{TP: 2}}, 0},
		"ruled": {"mixtral", shard.Options{Layout: shard.Layout{TP: 2, EP: 4}, Rules: []shard.ModuleRule{
			{Pattern: "*.q_proj", Rule: shard.Rowwise}, {Pattern: "*.w2", Rule: shard.Replicated}, {Pattern: "nothing", Rule: shard.QKV, Place: "head"}}}, 1},
	} {
		q := messages.LoadRequest{Job: id, Name: id, URI: testmodels.Write(t, x.family, false), Options: x.o, Once: true}
		want := alone(t, q)
		j := c.Load(q)
		if j.State != messages.StateReady {
			t.Errorf("%s: %s: %s", id, j.State, j.Why)
			continue
		}
		if got := digestsOf(j); !slices.Equal(got, want) || j.ReadAmplification != 1 {
			t.Errorf("%s: digests %v, alone %v; read amplification %g", id, got, want, j.ReadAmplification)
		}
		for i, r := range j.Ranks {
			if x.o.Layout.Rank(r.DP, r.PP, r.EP, r.TP) != i {
				t.Errorf("%s: rank %d stands at %+v", id, i, r)
			}
		}
		if len(j.Warnings) != x.warnings {
			t.Errorf("%s: warnings %q", id, j.Warnings)
		}
	}
}

package integration

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/shard"
)

// model returns the one model that is resident, however whole it is.
func (c *Cluster) model() messages.Model {
	c.t.Helper()
	models := ask(c, func(ctx context.Context) ([]messages.Model, error) { return c.Client.Models(ctx) })
	if len(models) != 1 {
		c.t.Fatalf("models %+v", models)
	}
	return models[0]
}

// TestResidentRankLost: the workers of a resident model are killed one after
// the other. Where one with room is there its ranks move to it at once, else to
// the next that joins; what a copy holds comes from there, and the source gives
// only what nobody holds. All the time it is told how the model stands.
func TestResidentRankLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	command(t, 0, "synth", dir, "--size", "8MiB")
	for name, k := range map[string]struct {
		layout shard.Layout
		read   int64 // of 100: how much of the model one lost rank costs the source
	}{
		"cut in two": {shard.Layout{TP: 2}, 50},
		"two copies": {shard.Layout{DP: 2}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			uri, served := limitedFolder(t, dir, 16<<20)
			args := []string{"--allow-host", "127.0.0.1", "--cpu-ranks", "1"}
			c := StartCluster(t, bin, 3, args...)
			q := replicated("kept", uri, 1)
			q.Options.Layout = k.layout
			first := c.Load(q)
			if first.State != messages.StateReady {
				t.Fatalf("%s: %s", first.State, first.Why)
			}
			for round, late := range []string{"", "late"} {
				whole := served.Swap(0)
				before := c.model()
				victim := before.Ranks[1].Worker
				c.Workers[victim].Kill()
				if late != "" {
					c.Until("it waits for room", func() bool {
						return c.model().State == messages.StateRepairing && c.Status(q.Job).State == messages.StateWaiting
					})
					c.StartWorker(late, args...)
				}
				c.Until("the rank has moved", func() bool {
					m := c.model()
					return m.State == messages.StateReady && m.Ranks[1].Worker != victim
				})
				m := c.model()
				for i, r := range m.Ranks {
					if r.Digest != first.Ranks[i].Digest || r.BytesDone != r.BytesTotal {
						t.Errorf("rank %+v, was %+v", r, first.Ranks[i])
					}
				}
				if m.Ranks[0].Worker != before.Ranks[0].Worker || m.Ranks[1].Generation != before.Ranks[1].Generation+1 || m.Why != "" {
					t.Errorf("model %+v, was %+v", m, before)
				}
				// Of what is cut by columns a rank's part is in every chunk; headers
				// are read besides.
				if n := served.Load(); round == 0 && (n < whole*k.read/100 || n > whole*(k.read*3/2+5)/100) {
					t.Errorf("the source served %d bytes for a lost rank of %d", n, whole)
				}
				if end := c.Status(q.Job); end.State != messages.StateReady || end.Why != "" {
					t.Errorf("job %s: %s", end.State, end.Why)
				}
			}
			kinds := events(t, c, q.Job)
			if len(kinds[progress.RankMoved]) != 2 || len(kinds[progress.ReadyEvent]) != 3 || len(kinds[progress.Unloaded]) != 0 {
				t.Errorf("%d moved, %d times ready, %d unloaded", len(kinds[progress.RankMoved]), len(kinds[progress.ReadyEvent]), len(kinds[progress.Unloaded]))
			}
			if _, err := c.Client.Unload(t.Context(), first.Model); err != nil {
				t.Fatal(err)
			}
		})
	}
}

package integration

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// stored reads a bucket's records, by what lies in a field of theirs.
func stored[T any](t *testing.T, c *Cluster, bucket string, name func(T) string) map[string]T {
	t.Helper()
	js, err := jetstream.New(c.Conn)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := kv.ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]T{}
	for key := range keys.Keys() {
		e, err := kv.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		var v T
		if err := json.Unmarshal(e.Value(), &v); err != nil {
			t.Fatal(err)
		}
		all[name(v)] = v
	}
	return all
}

// TestNATSStoreLost: NATS comes back with an empty store in the middle of a
// load. The same coordinator leads, no worker is lost, the load goes on, what
// was resident stays, and the records of all that are there again, for the next
// coordinator too.
func TestNATSStoreLost(t *testing.T) {
	for name, coordinators := range map[string][]string{"alone": {"c1"}, "with a standby": {"c1", "c2"}} {
		t.Run(name, func(t *testing.T) {
			nats := StartNATS(t)
			c := StartWith(t, bin, nats, 2, coordinators...)
			want := c.calm(t)
			kept := c.Load(stories(t, "hf-f32", "kept", 2))
			if kept.State != messages.StateReady {
				t.Fatalf("%s: %s", kept.State, kept.Why)
			}
			j := c.Submit(fine(t, "cut", 2))
			before := c.until(j.Job, .3)
			nats.Kill()
			nats.Replace()
			end := c.goesOn(t, before, want)
			if end.Epoch != j.Epoch {
				t.Errorf("epoch %d follows %d: the load was taken over", end.Epoch, j.Epoch)
			}
			got := events(t, c, j.Job)
			if len(got[progress.ReadyEvent]) != 1 || len(got[progress.WorkerLost])+len(got[progress.RankMoved]) != 0 {
				t.Errorf("events %v", got)
			}
			if again := c.Load(stories(t, "hf-f32", "again", 4)); again.State != messages.StateReady {
				t.Fatalf("%s: %s", again.State, again.Why)
			}
			c.Until("all is written down", func() bool {
				models := stored(t, c, "gantry-models", func(m messages.Model) string { return m.Job })
				jobs := stored(t, c, "gantry-jobs", func(j messages.Job) string { return j.Job })
				for _, id := range []string{kept.Job, j.Job, "again"} {
					if models[id].State != messages.StateReady || jobs[id].State != messages.StateReady {
						return false
					}
				}
				return true
			})
			// It leaves, and the next one finds all of it.
			c.Leads().Kill()
			if len(coordinators) == 1 {
				c.StartCoordinator("c3")
			}
			c.Until("another leads", func() bool {
				status, err := c.Client.Status(t.Context(), kept.Job)
				workers, workersErr := c.Client.Workers(t.Context())
				return err == nil && status.State == messages.StateReady && workersErr == nil && len(workers) == 2
			})
			if models, err := c.Client.Models(t.Context()); err != nil || len(models) != 3 {
				t.Errorf("%d models, %v", len(models), err)
			}
			if _, err := c.Client.Unload(t.Context(), kept.Model); err != nil {
				t.Error(err)
			}
		})
	}
}

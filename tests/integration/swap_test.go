package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// resident keeps asking which models there are and checks each answer: one
// model, whole, with the ranks of one job.
type resident struct {
	t    *testing.T
	c    *Cluster
	stop chan struct{}
	done sync.WaitGroup
	mu   sync.Mutex
	seen []string // jobs, as they followed each other
}

func (c *Cluster) watchModels(t *testing.T) *resident {
	r := &resident{t: t, c: c, stop: make(chan struct{})}
	r.done.Go(func() {
		for {
			select {
			case <-r.stop:
				return
			case <-time.After(5 * time.Millisecond):
				r.look()
			}
		}
	})
	return r
}

func (r *resident) look() {
	models, err := r.c.Client.Models(r.t.Context())
	if err != nil {
		return // nobody leads for a moment
	}
	if len(models) != 1 {
		r.t.Errorf("%d models are resident: %+v", len(models), models)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := models[0]; len(r.seen) == 0 || r.seen[len(r.seen)-1] != m.Job {
		r.seen = append(r.seen, m.Job)
	}
	for i, k := range models[0].Ranks {
		if k.Rank != i || k.Digest == "" || k.BytesDone != k.BytesTotal {
			r.t.Errorf("the model of job %s has rank %+v", models[0].Job, k)
		}
	}
}

// jobs ends the watch and returns whose model was resident, in order.
func (r *resident) jobs() []string {
	close(r.stop)
	r.done.Wait()
	r.look()
	return r.seen
}

// TestSwap: at every moment the old model or the new one is resident, whole,
// whatever happens in the middle: nothing, a worker that only the new one is
// on is killed, the leading coordinator is killed or frozen, the swap is
// cancelled.
func TestSwap(t *testing.T) {
	for _, what := range only(t, []string{"nothing", "coordinator killed", "worker killed", "cancelled", "coordinator frozen", "coordinator killed at the end"}, 3) {
		t.Run(what, func(t *testing.T) {
			c := StartWith(t, bin, StartNATS(t), 2, "c1", "c2")
			first := fine(t, "old", 2)
			first.Name, first.LimitRate = "prod", 0
			if j := c.Load(first); j.State != messages.StateReady {
				t.Fatal(j.Why)
			}
			if what == "worker killed" { // two that hold nothing of the old one and have most room
				c.StartWorker("w3", "--memory", "1GiB")
				c.StartWorker("w4", "--memory", "1GiB")
			}
			watch := c.watchModels(t)
			q := fine(t, "new", 2)
			q.Name, q.Options.Scheme = "prod", "q8_0"
			if what == "worker killed" {
				q.WaitWorkers = 4
			}
			share, release := .5, func() {}
			if what == "coordinator killed at the end" {
				share, release = .95, nearEnd(t, &q)
			}
			if _, err := c.Client.Swap(t.Context(), q); err != nil {
				t.Fatal(err)
			}
			before := c.until("new", share)
			time.AfterFunc(momentLasts, release)
			leads := c.Leads()
			switch what {
			case "coordinator killed", "coordinator killed at the end":
				leads.Kill()
			case "coordinator frozen":
				strike(t, leads, syscall.SIGSTOP)
			case "cancelled":
				if _, err := c.Client.Cancel(t.Context(), "new", ""); err != nil {
					t.Fatal(err)
				}
			case "worker killed":
				at := slices.IndexFunc(before.Ranks, func(r messages.Rank) bool { return r.Worker == "w3" || r.Worker == "w4" })
				if at < 0 {
					t.Fatalf("ranks %+v: none is at a new worker", before.Ranks)
				}
				c.Workers[before.Ranks[at].Worker].Kill()
				delete(c.Workers, before.Ranks[at].Worker)
			}
			end := c.Await("new")
			want, state := []string{"old", "new"}, messages.StateReady
			if what == "cancelled" {
				want, state = []string{"old"}, messages.StateCancelled
			}
			if end.State != state {
				t.Fatalf("%s: %s", end.State, end.Why)
			}
			c.Until("all but the resident model is freed", func() bool {
				var held float64
				for _, w := range c.Workers {
					held += w.arenas(t)
				}
				models, err := c.Client.Models(t.Context())
				return err == nil && len(models) == 1 && held == arenaBytes(models[0])
			})
			if got := watch.jobs(); !slices.Equal(got, want) {
				t.Errorf("resident were the models of %v, want %v", got, want)
			}
			if what == "nothing" {
				if got := events(t, c, "new"); len(got[progress.Swapped]) != 1 {
					t.Errorf("%d events swapped", len(got[progress.Swapped]))
				}
			}
		})
	}
}

func arenaBytes(m messages.Model) (sum float64) {
	for _, r := range m.Ranks {
		sum += float64(r.Bytes)
	}
	return sum
}

// TestSwapCommand: the commands swap and watch.
func TestSwapCommand(t *testing.T) {
	c := StartCluster(t, bin, 2)
	uri := stories(t, "hf-f32", "", 1).URI
	command(t, 4, "swap", "prod", uri, "--server", c.URL) // nothing to replace
	command(t, 0, "load", uri, "--name", "prod", "--server", c.URL)
	var j messages.Job
	if err := json.Unmarshal(command(t, 0, "swap", "prod", uri, "--quant", "q8_0", "--tp", "2", "--server", c.URL, "--json"), &j); err != nil {
		t.Fatal(err)
	}
	models, err := c.Client.Models(t.Context())
	if err != nil || len(models) != 1 || models[0].Job != j.Job || models[0].Scheme != "q8_0" {
		t.Errorf("models %+v, %v", models, err)
	}
	command(t, 2, "swap", "prod", uri) // no cluster
	lines := 0
	for d := json.NewDecoder(bytes.NewReader(command(t, 0, "watch", j.Job, "--server", c.URL, "--json"))); d.More(); lines++ {
		var heard map[string]json.RawMessage
		if err := d.Decode(&heard); err != nil || len(heard) != 1 {
			t.Fatalf("%v: %v", heard, err)
		}
	}
	if lines < 3 {
		t.Errorf("watch says %d things", lines)
	}
	command(t, 4, "watch", fmt.Sprint("no", j.Job), "--server", c.URL)
}

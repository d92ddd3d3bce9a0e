package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/shard"
)

// until waits until so much of a job is read, and returns how it stands then.
func (c *Cluster) until(id string, share float64) (s messages.Job) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%.0f %% of %s are read", 100*share, id), func() bool {
		s = c.Status(id)
		return s.State.Final() || s.Counters.ChunksDone > 0 && float64(s.Counters.BytesRead) >= share*float64(s.Counters.BytesToRead)
	})
	if s.State.Final() {
		c.t.Fatalf("the load ended before: %s: %s", s.State, s.Why)
	}
	return s
}

// fine is a load that takes about four seconds on two workers, by small steps:
// 8 MiB at a rate, in chunks of 64 KiB.
func fine(t *testing.T, id string, tp int) messages.LoadRequest {
	return messages.LoadRequest{
		Job: id, Name: "m-" + id, URI: eightMiB(t), LimitRate: 1 << 20,
		WaitWorkers: 2, WaitSeconds: 30, // one that is known may not be within reach yet
		Options: shard.Options{Layout: shard.Layout{TP: tp}, ChunkBytes: 64 << 10},
	}
}

// writeEightMiB writes a checkpoint, once.
var writeEightMiB = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "8MiB")
	_, err := synth.Write(context.Background(), dir, synth.Options{Bytes: 8 << 20})
	return dir, err
})

func eightMiB(t *testing.T) string {
	t.Helper()
	dir, err := writeEightMiB()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// calm does the load of fine without a disturbance and returns its digests.
func (c *Cluster) calm(t *testing.T) []string {
	t.Helper()
	q := fine(t, "calm", 2)
	q.LimitRate, q.Once = 0, true
	j := c.Load(q)
	if j.State != messages.StateReady {
		t.Fatalf("%s: %s", j.State, j.Why)
	}
	return digestsOf(j)
}

// onItsWay is how many chunks of a job may be read again where another
// coordinator takes it over: those that are under way then, between workers of
// which one knows and the other does not.
const onItsWay = 6

// goesOn checks that a job ended ready although its coordinator or NATS went
// away when it stood as in before: what was placed is where it was, and was not
// read again.
func (c *Cluster) goesOn(t *testing.T, before messages.Job, want []string) messages.Job {
	t.Helper()
	end := c.Await(before.Job)
	if end.State != messages.StateReady {
		t.Fatalf("%s: %s", end.State, end.Why)
	}
	if got := digestsOf(end); !slices.Equal(got, want) {
		t.Errorf("digests %v, undisturbed %v", got, want)
	}
	for i, r := range end.Ranks {
		if r.Worker != before.Ranks[i].Worker {
			t.Errorf("rank %d was at %s and is at %s", i, before.Ranks[i].Worker, r.Worker)
		}
	}
	again := int64(0)
	if end.Epoch != before.Epoch {
		again = onItsWay * end.Options.ChunkBytes
	}
	if end.BytesRead > end.Counters.BytesToRead+again || before.BytesRead <= again {
		t.Errorf("%d bytes of %d were read, %d of them before", end.BytesRead, end.Counters.BytesToRead, before.BytesRead)
	}
	return end
}

// TestStandby: another coordinator takes over from one that is killed or
// frozen, whenever that happens, and the one that thaws does no harm.
func TestStandby(t *testing.T) {
	for _, c := range only(t, []struct {
		signal syscall.Signal
		share  float64
	}{
		{syscall.SIGKILL, .5}, {syscall.SIGSTOP, .5}, // the first of each kind is always run
		{syscall.SIGKILL, .05}, {syscall.SIGKILL, .95}, {syscall.SIGSTOP, .05}, {syscall.SIGSTOP, .95},
	}, 2) {
		t.Run(fmt.Sprintf("%v at %.0f %%", c.signal, 100*c.share), func(t *testing.T) {
			all := StartWith(t, bin, StartNATS(t), 2, "c1", "c2")
			want := all.calm(t)
			q := fine(t, "led", 2)
			release := func() {}
			if c.share > .9 {
				release = nearEnd(t, &q)
			}
			j := all.Submit(q)
			before := all.until(j.Job, c.share)
			time.AfterFunc(momentLasts, release)
			first := all.Leads()
			strike(t, first, c.signal)
			struck := time.Now()
			all.Until("the other leads", func() bool { return all.Leads() != first })
			if took := time.Since(struck); took > takeOverWithin+slack {
				t.Errorf("the other leads after %v", took)
			}
			end := all.goesOn(t, before, want)
			if end.Epoch <= j.Epoch {
				t.Errorf("epoch %d follows %d", end.Epoch, j.Epoch)
			}
			if got := events(t, all, j.Job); len(got[progress.CoordinatorChanged]) != 1 {
				t.Errorf("%d events coordinator_changed", len(got[progress.CoordinatorChanged]))
			}
			if c.signal == syscall.SIGSTOP {
				strike(t, first, syscall.SIGCONT)
				all.Until("the one that thawed has noticed", func() bool { return first.find("leadership ended") != "" })
			} else {
				all.StartCoordinator(first.Name)
			}
			if again := all.Load(stories(t, "hf-f32", "again", 4)); again.State != messages.StateReady || again.Epoch != end.Epoch {
				t.Errorf("%s, epoch %d after %d: %s", again.State, again.Epoch, end.Epoch, again.Why)
			}
		})
	}
}

// takeOverWithin is how soon a standby leads: a lease, and some.
const takeOverWithin = 4 * time.Second

// TestNATSLost: while NATS is away a load goes on; when it is back, the same
// coordinator leads, no worker is lost, and progress and events are there.
func TestNATSLost(t *testing.T) {
	one, two := []string{"c1"}, []string{"c1", "c2"}
	for _, c := range only(t, []struct {
		name         string
		away         time.Duration
		kill         bool
		coordinators []string
	}{
		{"restart", 0, true, one}, {"away", 6 * time.Second, true, one},
		{"away long", 20 * time.Second, true, one}, {"frozen", 4 * time.Second, false, one}, {"frozen long", 20 * time.Second, false, one},
		{"away with a standby", 6 * time.Second, true, two}, {"frozen with a standby", 4 * time.Second, false, two},
	}, 2) {
		t.Run(c.name, func(t *testing.T) {
			nats := StartNATS(t)
			all := StartWith(t, bin, nats, 2, c.coordinators...)
			want := all.calm(t)
			j := all.Submit(fine(t, "cut", 2))
			before := all.until(j.Job, .3)
			if c.kill {
				nats.Kill()
			} else {
				strike(t, nats.Process, syscall.SIGSTOP)
			}
			time.Sleep(c.away)
			if c.kill {
				nats.Restart()
			} else {
				strike(t, nats.Process, syscall.SIGCONT)
			}
			end := all.goesOn(t, before, want)
			if len(c.coordinators) == 1 && end.Epoch != j.Epoch {
				t.Errorf("epoch %d follows %d: the load was taken over", end.Epoch, j.Epoch)
			}
			if c.away > 3*time.Second && end.Seconds > c.away.Seconds()+3 {
				t.Errorf("it took %.1f s: the load waited for NATS", end.Seconds)
			}
			got := events(t, all, j.Job)
			for kind, n := range map[progress.Kind]int{progress.WorkerLost: 0, progress.RankMoved: 0, progress.RankSealed: 2, progress.ReadyEvent: 1} {
				if len(got[kind]) != n && (len(got[kind]) < n || len(c.coordinators) == 1) { // another leader may say it again
					t.Errorf("%d events %s, want %d: %v", len(got[kind]), kind, n, got[kind])
				}
			}
			all.Until("all workers are there", func() bool { return len(all.MustWorkers()) == 2 })
			if again := all.Load(stories(t, "hf-f32", "again", 4)); again.State != messages.StateReady {
				t.Errorf("%s: %s", again.State, again.Why)
			}
			if models, err := all.Client.Models(t.Context()); err != nil || len(models) != 2 {
				t.Errorf("models %v, %v", models, err)
			}
		})
	}
}

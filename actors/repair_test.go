package actors

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/recovery"
)

// model returns the resident model of a name, if there is one.
func (w *world) model(name string) (m messages.Model, found bool) {
	w.t.Helper()
	models, err := w.co.Models(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range models {
		if m.Name == name {
			return m, true
		}
	}
	return messages.Model{}, false
}

// resident loads a model in two parts, on workers that take one rank each, and
// returns the job and which worker holds rank 1.
func (w *world) resident(q messages.LoadRequest) (messages.Job, int) {
	w.t.Helper()
	for i := range w.workers {
		w.equip(i, messages.Device{ID: "cpu", Free: 4 << 30, Ranks: 1})
	}
	q.Options.Layout.TP = 2
	j := w.load(q)
	if j.State != messages.StateReady {
		w.t.Fatalf("%s: %s", j.State, j.Why)
	}
	w.until("it is resident", func() bool { m, found := w.model(j.Model); return found && m.State == messages.StateReady })
	for i, m := range w.members {
		if m.Name == j.Ranks[1].Worker {
			return j, i
		}
	}
	w.t.Fatalf("rank 1 is at %s", j.Ranks[1].Worker)
	return j, 0
}

// lose ends a worker and its lease.
func (w *world) lose(i int) {
	w.t.Helper()
	if err := w.workers[i].Stop(); err != nil {
		w.t.Fatal(err)
	}
	w.co.MemberLost(w.members[i].Name, 1, "its lease ended")
}

// repairing waits until the model is said to be repaired, which its job is at.
func (w *world) repairing(j messages.Job, state messages.State) messages.Model {
	w.t.Helper()
	var m messages.Model
	w.until("it is repaired", func() bool {
		now, err := w.co.Status(w.t.Context(), messages.JobRequest{Job: j.Job})
		if err != nil {
			w.t.Fatal(err)
		}
		m, _ = w.model(j.Model)
		return m.State == messages.StateRepairing && now.State == state
	})
	return m
}

// TestModelIsRepaired: of a resident model only what was lost is loaded again;
// meanwhile all that is told of it says so, also when another coordinator takes
// over.
func TestModelIsRepaired(t *testing.T) {
	for name, over := range map[string]bool{"one coordinator": false, "two coordinators": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			j, lost := w.resident(request("a"))
			var kept, spare int
			for i, m := range w.members {
				switch {
				case i == lost:
				case m.Name == j.Ranks[0].Worker:
					kept = i
				default:
					spare = i
				}
			}
			before := w.nodes[kept].tries(0)
			gate := w.gated()
			w.lose(lost)
			m := w.repairing(j, messages.StateLoading)
			if !strings.Contains(m.Why, "worker "+w.members[lost].Name+" is lost: its lease ended") || !m.Since.Before(time.Now()) {
				t.Errorf("the model: %+v", m)
			}
			again := request("b")
			again.Name = j.Model
			if _, err := w.co.Load(t.Context(), again); recovery.ClassOf(err) != recovery.Unavailable {
				t.Errorf("a load of its name: %v", err)
			}
			if _, err := w.co.Export(t.Context(), messages.ExportRequest{Export: "x", Name: j.Model, Path: "/x"}); recovery.ClassOf(err) != recovery.Unavailable {
				t.Errorf("its export: %v", err)
			}
			if over {
				if err := w.co.Stop(); err != nil {
					t.Fatal(err)
				}
				w.start(2, w.system.log, w.members[kept], w.members[spare])
			}
			close(gate)
			w.until("it is ready again", func() bool { m, _ = w.model(j.Model); return m.State == messages.StateReady })
			end, err := w.co.Status(t.Context(), messages.JobRequest{Job: j.Job})
			if err != nil {
				t.Fatal(err)
			}
			r := m.Ranks[1]
			if r.Worker != w.members[spare].Name || r.Generation != 2 || r.Digest == "" || m.Ranks[0] != j.Ranks[0] || m.Why != "" {
				t.Errorf("the model: %+v", m)
			}
			if end.State != messages.StateReady || end.Why != "" || end.Seconds != j.Seconds || len(end.Stages) != len(j.Stages) || end.BytesRead <= j.BytesRead {
				t.Errorf("the job: %+v, was %+v", end, j)
			}
			if got := w.nodes[kept].tries(0) + w.nodes[spare].tries(0); got < before+1 {
				t.Errorf("chunk 0 was loaded %d times at the others", got)
			}
			for k, want := range map[progress.Kind]int{progress.Submitted: 1, progress.WorkerLost: 1, progress.RankMoved: 1, progress.RankSealed: 3, progress.ReadyEvent: 2} {
				if got := w.mem.count(k); got != want && !over {
					t.Errorf("%d events %s, want %d", got, k, want)
				}
			}
		})
	}
}

// TestModelIsGivenUp: where lost ranks find no room in time, where the load was
// to fail fast, and where it is unloaded meanwhile, nothing of it is left.
func TestModelIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		wait     time.Duration
		recovery string
		unload   bool
		why      string
	}{
		"no room in time": {300 * time.Millisecond, "", false, "no room for 1 of 1 ranks"},
		"fail fast":       {time.Minute, "fail-fast", false, "is lost: its lease ended"},
		"at once":         {-1, "", false, "is lost: its lease ended"},
		"unloaded":        {time.Minute, "", true, "unloaded"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			if err := w.co.Stop(); err != nil {
				t.Fatal(err)
			}
			w.repair = c.wait
			w.start(2, w.system.log, w.members...)
			q := request("a")
			q.Recovery = c.recovery
			j, lost := w.resident(q)
			w.lose(lost)
			if c.unload {
				w.repairing(j, messages.StateWaiting)
				if m, err := w.co.Unload(t.Context(), messages.ModelRequest{Name: j.Model}); err != nil || m.Name != j.Model {
					t.Errorf("unload: %+v, %v", m, err)
				}
			}
			w.until("nothing is left", func() bool {
				w.mem.mu.Lock()
				defer w.mem.mu.Unlock()
				return w.nodes[1-lost].empty() && len(w.mem.models) == 0
			})
			if _, found := w.model(j.Model); found || w.mem.count(progress.Unloaded) != 1 {
				t.Errorf("%v, %d events that it is unloaded", found, w.mem.count(progress.Unloaded))
			}
			w.mem.mu.Lock()
			defer w.mem.mu.Unlock()
			for _, e := range w.mem.events {
				if e.Kind == progress.Unloaded && !strings.Contains(e.Reason, c.why) {
					t.Errorf("unloaded: %s", e.Reason)
				}
			}
		})
	}
}

// TestSwapDuringRepair: a model that is repaired while another is loaded to take
// its place gives it up to that one, and nothing of it is left.
func TestSwapDuringRepair(t *testing.T) {
	w := newWorld(t, 5)
	j, lost := w.resident(request("a"))
	gate := w.gated()
	q := request("b")
	q.Name, q.Options.Layout.TP = j.Model, 2
	if _, err := w.co.Swap(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	w.until("the swap loads", func() bool {
		s, err := w.co.Status(t.Context(), messages.JobRequest{Job: "b"})
		return err == nil && s.State == messages.StateLoading
	})
	w.lose(lost)
	w.repairing(j, messages.StateLoading)
	close(gate)
	w.until("the new one has taken its place", func() bool {
		m, found := w.model(j.Model)
		return found && m.Job == "b" && m.State == messages.StateReady
	})
	w.until("nothing is left of the old one", func() bool {
		for i, n := range w.nodes {
			n.mu.Lock()
			_, open := n.open["a"]
			n.mu.Unlock()
			if open && i != lost {
				return false
			}
		}
		return true
	})
	if s := w.wait("b"); s.State != messages.StateReady {
		t.Errorf("%s: %s", s.State, s.Why)
	}
}

// TestRepairWritesFirst: a swap whose write of the model's record comes after
// that of the model's repair writes again.
func TestRepairWritesFirst(t *testing.T) {
	w := newWorld(t, 5)
	j, lost := w.resident(request("a"))
	began, held := make(chan struct{}), make(chan struct{})
	proceed := sync.OnceFunc(func() { close(held) })
	t.Cleanup(proceed)
	var writes atomic.Int32
	w.mem.before = func(what string) error {
		if what == "model" && writes.Add(1) == 1 { // of the swap
			close(began)
			<-held
		}
		return nil
	}
	q := request("b")
	q.Name, q.Options.Layout.TP = j.Model, 2
	if _, err := w.co.Swap(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	<-began
	revision := func() uint64 {
		w.mem.mu.Lock()
		defer w.mem.mu.Unlock()
		return w.mem.models[j.Model].Revision
	}
	was := revision()
	w.lose(lost)
	w.until("the repair has written", func() bool { return revision() != was })
	proceed()
	w.until("the new one has taken its place", func() bool {
		m, found := w.model(j.Model)
		return found && m.Job == "b" && m.State == messages.StateReady
	})
}

package integration

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// TestSeveralLoads: three loads at once, for two of which there is room. No
// worker ever holds more than its memory, the two get on alike, and the third
// waits until one of them is unloaded.
func TestSeveralLoads(t *testing.T) {
	const memory = 10 << 20 // two halves of 8 MiB, and no third
	c := StartCluster(t, bin, 2, "--memory", "10MiB")
	ids := []string{"one", "two", "three"}
	for _, id := range ids {
		q := fine(t, id, 2)
		q.WaitSeconds = 60
		c.Submit(q)
	}
	done := map[string]float64{} // of each load, when the first is ready
	ready := func() (n int) {
		for _, id := range ids {
			s := c.Status(id)
			if done[id] = s.Overall; s.State == messages.StateReady {
				n++
			}
			if s.State == messages.StateFailed {
				t.Fatalf("%s: %s", id, s.Why)
			}
		}
		return n
	}
	within := func() {
		for name, w := range c.Workers {
			if n := w.arenas(t); n > memory {
				t.Fatalf("worker %s holds %.0f bytes of %d", name, n, memory)
			}
		}
	}
	wait := func(n int) {
		c.Until(fmt.Sprintf("%d are ready", n), func() bool { within(); return ready() >= n })
	}
	wait(1)
	alike := 0
	for _, share := range done {
		if share > .5 {
			alike++
		}
	}
	if alike != 2 {
		t.Errorf("when the first load was ready they were at %v", done)
	}
	wait(2)
	var third string
	for _, id := range ids {
		if s := c.Status(id); s.State != messages.StateReady {
			third = id
			if s.State != messages.StateWaiting || s.Why == "" {
				t.Errorf("%s is %s: %q", id, s.State, s.Why)
			}
		}
	}
	first := ids[0]
	if first == third {
		first = ids[1]
	}
	if _, err := c.Client.Unload(t.Context(), "m-"+first); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	wait(3)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the third was ready after %v", took)
	}
}

// TestSmallLoadOvertakes: a small load that comes when a worker has all of a
// large one's chunks waiting takes every other turn, and is ready long before.
func TestSmallLoadOvertakes(t *testing.T) {
	dir := t.TempDir()
	command(t, 0, "synth", filepath.Join(dir, "large"), "--size", "8MiB")
	command(t, 0, "synth", filepath.Join(dir, "small"), "--size", "1MiB")
	uri, _ := limitedFolder(t, dir, 2<<20)
	c := StartCluster(t, bin, 1, "--allow-host", "127.0.0.1")
	large := c.Submit(replicated("large", uri+"large/", 1))
	share := func() float64 {
		n := c.Status(large.Job).Counters
		return float64(n.BytesRead) / float64(max(n.BytesToRead, 1))
	}
	c.Until("the large load is under way", func() bool { return share() > 0 })
	small := c.Load(replicated("small", uri+"small/", 1))
	at := share()
	if small.State != messages.StateReady {
		t.Fatalf("%s: %s", small.State, small.Why)
	}
	// As much as the small one read, beside what was read before it came and as
	// it was planned. First come, first served would be all of it.
	if at > .7 {
		t.Errorf("the large load had read %.0f %% when the small one was ready, of an eighth of its size", 100*at)
	}
	if end := c.Await(large.Job); end.State != messages.StateReady {
		t.Errorf("%s: %s", end.State, end.Why)
	}
	t.Logf("the large load had read %.0f %% when the small one was ready", 100*at)
}

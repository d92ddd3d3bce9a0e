package integration

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/progress"
)

// TestLoadWithoutNATS: the command that waits for a load says when NATS is away
// and when it is back, shows the load's end then, and can be interrupted while
// it waits.
func TestLoadWithoutNATS(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	if _, err := synth.Write(t.Context(), model, synth.Options{Bytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	nats := StartNATS(t)
	c := StartWith(t, bin, nats, 1, "c1")
	says := func(p *Process, text string) {
		t.Helper()
		select {
		case <-p.said(text):
		case <-p.done:
			t.Fatalf("it ended: %s", p.Last())
		case <-time.After(readyLimit):
			t.Fatalf("it does not say %q", text)
		}
	}
	begin := func(rate string) *Process {
		t.Helper()
		p := Begin(t, filepath.Join(bin, "gantry"), "gantry", "load", model, "--once", "--limit-rate", rate, "--server", c.URL)
		says(p, string(progress.LoadingWeights))
		nats.Kill()
		says(p, "NATS is away, waiting for it")
		return p
	}
	p := begin("16MiB")
	nats.Restart()
	says(p, "NATS is back")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit %d after NATS was back: %s", code, p.Last())
	}

	p = begin("1MiB")
	begun := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.Wait(); code != 130 || !strings.Contains(p.Last(), "may still be running") {
		t.Errorf("exit %d after SIGINT: %s", code, p.Last())
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("an interrupt takes %s while NATS is away", took)
	}
	if line := p.find("NATS refused"); line != "" {
		t.Errorf("besides: %s", line)
	}
	worker := c.Workers["w1"]
	says(worker, "NATS is away")
	says(worker, "NATS is back")
}

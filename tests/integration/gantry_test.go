package integration

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/internal/cluster"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// command runs gantry and returns its stdout; it must exit with want.
func command(t *testing.T, want int, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "gantry"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Fatalf("gantry %s: exit %d, want %d: %s", strings.Join(args, " "), code, want, errs.String())
	}
	return out.Bytes()
}

// TestUp: against a running `gantry up`, a NATS subscriber sees progress and
// events of a load, service discovery finds the service, and the command's
// verbs work.
func TestUp(t *testing.T) {
	up := Launch(t, filepath.Join(bin, "gantry"), "gantry", "up", "--nats-listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	url := up.Ready["nats"]
	nc, err := cluster.Connect(url, "")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard, err := nc.SubscribeSync("gantry.v1.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	var job messages.Job
	stories := filepath.Join(Testdata(t), "stories260K", "hf-bf16")
	if err := json.Unmarshal(command(t, 0, "load", stories, "--tp", "2", "--quant", "int8", "--server", url, "--json"), &job); err != nil {
		t.Fatal(err)
	}
	if job.State != messages.StateReady || job.ReadAmplification != 1 {
		t.Errorf("load: %+v", job)
	}

	// All that must be said has been said, or is on its way.
	want := map[string]bool{"event." + job.Job + ".submitted": true, "event." + job.Job + ".planned": true,
		"event." + job.Job + ".rank_sealed": true, "event." + job.Job + ".ready": true, "progress." + job.Job: true}
	for deadline := time.Now().Add(readyLimit); len(want) > 0; {
		m, err := heard.NextMsg(time.Until(deadline))
		if err != nil {
			t.Fatalf("never heard %v: %v", want, err)
		}
		rest, _ := strings.CutPrefix(m.Subject, "gantry.v1.")
		if strings.HasPrefix(rest, "progress.") {
			var u progress.Update
			if err := json.Unmarshal(m.Data, &u); err != nil || u.Job != job.Job || u.Overall < 0 || u.Overall > 1 {
				t.Errorf("%s: %v, %s", m.Subject, err, m.Data)
			}
			rest = rest[:strings.LastIndexByte(rest, '.')]
		}
		delete(want, rest)
	}

	ping, err := nc.Request("$SRV.PING.gantry", nil, readyLimit)
	if err != nil {
		t.Fatalf("nats micro ls finds no service: %v", err)
	}
	var service micro.Ping
	if err := json.Unmarshal(ping.Data, &service); err != nil || service.Name != "gantry" {
		t.Errorf("service %s, %v", ping.Data, err)
	}

	for _, c := range []struct {
		verb []string
		says string
	}{
		{[]string{"status"}, job.Job}, {[]string{"status", job.Job}, "ready"}, {[]string{"jobs"}, job.Job},
		{[]string{"models"}, "hf-bf16"}, {[]string{"workers"}, "cpu"}, {[]string{"unload", "hf-bf16"}, "hf-bf16"},
	} {
		if out := command(t, 0, append(c.verb, "--server", url, "--json")...); !json.Valid(out) || !bytes.Contains(out, []byte(c.says)) {
			t.Errorf("gantry %v: %s", c.verb, out)
		}
	}
	if out := command(t, 0, "models", "--server", url, "--json"); strings.TrimSpace(string(out)) != "[]" {
		t.Errorf("models after unload: %s", out)
	}
	if code := up.Stop(); code != 0 {
		t.Errorf("gantry up ends with %d", code)
	}
}

// TestInterruptCancels: SIGINT in the middle of a load, in this process and
// on a cluster, cancels the job and exits with 130.
func TestInterruptCancels(t *testing.T) {
	model := filepath.Join(t.TempDir(), "model")
	if _, err := synth.Write(t.Context(), model, synth.Options{Bytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	c := StartCluster(t, bin, 1)
	for _, where := range [][]string{{}, {"--server", c.URL}} {
		args := append([]string{"load", model, "--limit-rate", "1MiB"}, where...)
		p := Begin(t, filepath.Join(bin, "gantry"), "gantry", args...)
		select {
		case <-p.said(string(progress.LoadingWeights)):
		case <-time.After(readyLimit):
			t.Fatalf("gantry %v does not begin to load", args)
		}
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); code != 130 {
			t.Errorf("gantry %v: exit %d after SIGINT, want 130: %s", args, code, p.Last())
		}
	}
	jobs, err := c.Client.Jobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].State != messages.StateCancelled {
		t.Errorf("jobs after the interrupt: %+v, %v", jobs, err)
	}
}

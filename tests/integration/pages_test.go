package integration

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/messages"
)

// TestPages: health, readiness and metrics of both daemons.
func TestPages(t *testing.T) {
	c := StartCluster(t, bin, 1)
	j := c.Load(stories(t, "hf-f32", "a", 1))
	if j.State != messages.StateReady {
		t.Fatal(j.Why)
	}
	for _, p := range []*Process{c.Coordinator, c.Workers["w1"]} {
		for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/metrics": "go_goroutines"} {
			r, err := http.Get("http://" + p.Ready["http"] + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s%s: %s %v", p.Name, path, r.Status, err)
			}
		}
	}
	w := c.Workers["w1"]
	for name, want := range map[string]int64{
		"gantry_load_bytes_read": j.BytesRead, "gantry_load_bytes_placed": j.BytesPlaced, "gantry_arena_bytes": j.BytesPlaced, "gantry_job_active": 1,
	} {
		if n := w.metric(t, name); n != float64(want) {
			t.Errorf("%s is %.0f, want %d", name, n, want)
		}
	}
	if _, err := c.Client.Unload(t.Context(), j.Model); err != nil {
		t.Fatal(err)
	}
	c.Until("nothing is held", func() bool { return w.metric(t, "gantry_arena_bytes")+w.metric(t, "gantry_job_active") == 0 })
}

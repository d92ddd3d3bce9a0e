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
	if j := c.Load(stories(t, "hf-f32", "a", 1)); j.State != messages.StateReady {
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
			if path == "/metrics" && p.Name == "w1" && !strings.Contains(string(body), "gantry_") {
				t.Errorf("%s%s tells nothing of the load", p.Name, path)
			}
		}
	}
}

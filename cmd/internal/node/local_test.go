package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// testdata returns the folder of the shared test data.
func testdata(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("GANTRY_TESTDATA"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		at := filepath.Join(dir, "shared", "testdata")
		if _, err := os.Stat(at); err == nil {
			return at
		}
	}
	t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds stories260K")
	return ""
}

// TestLocal loads in one process, with no port open.
func TestLocal(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	l, err := StartLocal(ctx, LocalConfig{Workers: 2, Resources: Resources{Memory: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	t.Logf("started in %s", time.Since(start))
	if l.NATSURL != "" || l.HTTP != "" {
		t.Errorf("ports are open: %q %q", l.NATSURL, l.HTTP)
	}
	q := messages.LoadRequest{Job: "a", URI: filepath.Join(testdata(t), "stories260K", "hf-f32")}
	q.Options.Layout.TP = 4
	client := l.Client()
	if _, err := client.Load(ctx, q); err != nil {
		t.Fatal(err)
	}
	notices, err := client.WatchJob(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	var end *messages.Job
	news := 0
	for n := range notices {
		switch {
		case n.Err != nil:
			t.Fatal(n.Err)
		case n.Job != nil:
			end = n.Job
		case n.Progress != nil:
			news++
		}
	}
	if end == nil || end.State != messages.StateReady || end.ReadAmplification != 1 || end.Model != "hf-f32" {
		t.Fatalf("%+v", end)
	}
	if news == 0 {
		t.Error("no progress was told")
	}
}

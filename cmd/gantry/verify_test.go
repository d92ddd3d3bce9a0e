package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
)

// TestVerify goes the way of a user: a checkpoint is written with digests,
// matches, changes, is refused by verify and load, and is accepted again once
// that is asked for.
func TestVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	code, out, stderr := gantry(t, "synth", dir, "--size", "4MiB", "--json")
	if code != 0 {
		t.Fatal(stderr)
	}
	if !strings.Contains(out, `"parameters": `) || !strings.Contains(out, `"kv_heads": `) {
		t.Errorf("synth --json: %s", out)
	}
	v := mustJSON[verification](t, "verify", dir)
	if v.Digests != "matched" || v.Files != 1 || v.Bytes == 0 || len(v.Problems) != 0 {
		t.Errorf("as written: %+v", v)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	if v := mustJSON[verification](t, "verify", server.URL+"/"); v.Digests != "matched" {
		t.Errorf("remote: %+v", v)
	}
	if code, _, stderr := gantry(t, "verify", server.URL+"/", "--write"); code != exit.Usage {
		t.Errorf("remote --write: exit %d, %s", code, stderr)
	}
	file := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify"}, {"load", "--once"}, {"load", "--once", "--workers", "2", "--tp", "2", "--quant", "q8_0"}} {
		code, _, stderr := gantry(t, append(args, dir)...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		for _, want := range []string{"model.safetensors", "tensor \"model.", "bytes [", "verify --write"} {
			if last := lines[len(lines)-1]; code != exit.Checkpoint || !strings.Contains(last, want) {
				t.Errorf("%v: exit %d, %s: no %q", args, code, last, want)
			}
		}
	}
	if v := mustJSON[verification](t, "verify", dir, "--write"); v.Digests != "written" || v.Written == "" {
		t.Errorf("--write: %+v", v)
	}
	if code, _, stderr := gantry(t, "load", dir, "--once"); code != 0 {
		t.Errorf("load after --write: %s", stderr)
	}
}

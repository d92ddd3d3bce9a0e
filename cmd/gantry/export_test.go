package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/messages"
)

// readFile reads a file that must be there.
func readFile(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list names what a folder has.
func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestLoadExport: a load over two workers writes what quantize writes, as a
// folder with the checkpoint's side files and as GGUF, and leaves nothing else
// behind.
func TestLoadExport(t *testing.T) {
	stories := filepath.Join(t.TempDir(), "stories")
	if err := os.CopyFS(stories, os.DirFS(filepath.Join(testdata(t), "stories260K", "hf-f32"))); err != nil {
		t.Fatal(err)
	}
	side := []byte(`{"temperature": 1}`)
	if err := os.WriteFile(filepath.Join(stories, "generation_config.json"), side, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ scheme, out, file string }{
		{"none", "folder", "model.safetensors"}, {"int8", "folder", "model.safetensors"}, {"f16", "model.gguf", ""}, {"q4_0", "model.gguf", ""},
	} {
		want := filepath.Join(t.TempDir(), "want"+filepath.Ext(c.out))
		if c.file != "" {
			want = filepath.Join(t.TempDir(), c.file)
		}
		if code, _, stderr := gantry(t, "quantize", stories, "--to", c.scheme, "--out", want); code != exit.Done {
			t.Fatalf("quantize: exit %d: %s", code, stderr)
		}
		dir := t.TempDir()
		out := filepath.Join(dir, c.out)
		type report struct {
			messages.Job
			Export messages.Export `json:"export"`
		}
		j := mustJSON[report](t, "load", stories, "--workers", "2", "--tp", "2", "--quant", c.scheme, "--once", "--export", out)
		if j.State != messages.StateReady || j.Export.Path != out || j.Export.State != messages.StateReady || j.Ranks[0].Worker == j.Ranks[1].Worker {
			t.Errorf("%s: %+v", c.scheme, j)
		}
		if !bytes.Equal(readFile(t, out, c.file), readFile(t, want)) {
			t.Errorf("%s: the load writes another file than quantize", c.scheme)
		}
		if c.file == "" {
			if got := list(t, dir); got != "gantry.digests.json model.gguf" {
				t.Errorf("%s: the folder has %s", c.scheme, got)
			}
			continue
		}
		if got := list(t, dir); got != "folder" {
			t.Errorf("%s: beside the folder lies %s", c.scheme, got)
		}
		if got := list(t, out); got != "config.json gantry.digests.json generation_config.json model.safetensors" || !bytes.Equal(readFile(t, out, "generation_config.json"), side) {
			t.Errorf("%s: the folder has %s", c.scheme, got)
		}
	}
}

// TestLoadExportRefuses before it loads what no file can hold.
func TestLoadExportRefuses(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	for _, args := range [][]string{
		{"--quant", "q8_0", "--export", filepath.Join(t.TempDir(), "folder")},
		{"--quant", "int8", "--export", filepath.Join(t.TempDir(), "x.gguf")},
		{"--detach", "--server", "nats://127.0.0.1:1", "--export", t.TempDir()},
	} {
		code, stdout, stderr := gantry(t, append([]string{"load", stories}, args...)...)
		if code != exit.Usage || strings.Contains(stdout, "ready") {
			t.Errorf("%v: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
}

// TestLoadExportFails: a load that succeeds is reported, once, also where its
// export fails, and the exit code is the export's.
func TestLoadExportFails(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"load", stories, "--once", "--export", filepath.Join(file, "model.gguf")}
	code, stdout, stderr := gantry(t, append(args, "--json")...)
	var j struct {
		messages.Job
		Export messages.Export `json:"export"`
	}
	if err := json.Unmarshal([]byte(stdout), &j); err != nil {
		t.Fatalf("exit %d: %v in %q", code, err, stdout)
	}
	if j.Job.Job == "" || j.State != messages.StateReady || j.Export.State != messages.StateFailed || j.Export.Why == "" || code != exit.CodeOf(j.Export.Class) || code == exit.Done {
		t.Errorf("exit %d: %+v, export %+v", code, j.Job, j.Export)
	}
	if line := lastLine(stderr); !strings.HasPrefix(line, "gantry: ") || !strings.Contains(line, file) {
		t.Errorf("the error is %q", line)
	}
	if again, stdout, _ := gantry(t, args...); again != code || !strings.Contains(stdout, "not written to") || !strings.Contains(stdout, "ready after") {
		t.Errorf("exit %d, want %d: %s", again, code, stdout)
	}
}

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/messages"
)

// TestExport: a model that lies over three processes is written to a folder
// that they share, byte for byte as one process writes it; where a worker may
// not write it is refused.
func TestExport(t *testing.T) {
	shared := t.TempDir()
	c := StartCluster(t, bin, 0)
	for _, name := range []string{"wa", "wb", "wc"} {
		c.StartWorker(name, "--export-root", shared)
	}
	q := stories(t, "hf-bf16", "x", 4)
	q.Options.Scheme, q.Name = "q8_0", "hf-bf16" // as quantize names it, in the file too
	if j := c.Load(q); j.State != messages.StateReady {
		t.Fatalf("%+v", j)
	}
	want := filepath.Join(t.TempDir(), "want.gguf")
	command(t, 0, "quantize", q.URI, "--to", "q8_0", "--out", want)
	out := filepath.Join(shared, "new", "stories.gguf")
	var x messages.Export
	if err := json.Unmarshal(command(t, 0, "export", "hf-bf16", out, "--server", c.URL, "--json"), &x); err != nil {
		t.Fatal(err)
	}
	if x.State != messages.StateReady || x.Path != out || len(x.Warnings) != 1 {
		t.Errorf("%+v", x)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	should, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, should) {
		t.Error("the cluster writes another file than one process")
	}
	c.Until("the dumps are removed", func() bool {
		left, err := filepath.Glob(filepath.Join(shared, "new", ".gantry-*"))
		return err == nil && len(left) == 0
	})
	command(t, 2, "export", "hf-bf16", filepath.Join(shared, "folder"), "--server", c.URL) // no safetensors of q8_0
	if _, err := os.Lstat(filepath.Join(shared, "folder")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of an export that was refused is there: %v", err)
	}
	command(t, 4, "export", "hf-bf16", filepath.Join(t.TempDir(), "x.gguf"), "--server", c.URL)
	command(t, 4, "export", "nobody", out, "--server", c.URL)
	for name, p := range c.Workers {
		if line := p.find("was not removed"); line != "" {
			t.Errorf("%s: %s", name, line)
		}
	}
}

package main

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/cmd/internal/exit"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/messages"
)

// TestValidateCountsNonFinite: --validate reports how many NaN and Inf there
// were, in what was stored and in what was placed, over two workers.
func TestValidateCountsNonFinite(t *testing.T) {
	stories := filepath.Join(testdata(t), "stories260K", "hf-f32")
	in := mustJSON[inspection](t, "inspect", stories)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(stories)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range in.Tensors {
		if x.Name == "model.layers.2.mlp.up_proj.weight" { // 172 rows of 64
			binary.LittleEndian.PutUint32(data[x.Offset+4*70:], math.Float32bits(float32(math.NaN())))
			binary.LittleEndian.PutUint32(data[x.Offset+4*64*171:], math.Float32bits(float32(math.Inf(1))))
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"load", dir, "--once", "--tp", "2", "--workers", "2", "--quant", "int8"}
	j := mustJSON[messages.Job](t, append(args, "--validate")...)
	n := j.Validation.NonFinite
	if n == nil || n.Stored != (dtype.NonFinite{NaN: 1, Inf: 1}) || n.Placed != (dtype.NonFinite{NaN: 128}) || len(n.Ranks) != 2 {
		t.Fatalf("%+v, want 1 NaN and 1 Inf stored, two rows of 64 placed", n)
	}
	if r := n.Ranks[0]; r.Rank != 0 || r.Stored != (dtype.NonFinite{NaN: 1}) || r.Placed != (dtype.NonFinite{NaN: 64}) {
		t.Errorf("rank 0: %+v", r)
	}
	if r := n.Ranks[1]; r.Rank != 1 || r.Stored != (dtype.NonFinite{Inf: 1}) || r.Placed != (dtype.NonFinite{NaN: 64}) {
		t.Errorf("rank 1: %+v", r)
	}
	code, stdout, stderr := gantry(t, append(args, "--validate")...)
	if want := "stored 1 NaN and 1 Inf, placed 128 NaN and 0 Inf"; code != exit.Done || !strings.Contains(stdout, want) {
		t.Errorf("exit %d, no %q in\n%s%s", code, want, stdout, stderr)
	}
	if j := mustJSON[messages.Job](t, args...); j.Validation.NonFinite != nil {
		t.Errorf("counted though nobody asked: %+v", j.Validation.NonFinite)
	}
	if j := mustJSON[messages.Job](t, "load", stories, "--once", "--validate"); j.Validation.NonFinite == nil || j.Validation.NonFinite.Stored != (dtype.NonFinite{}) {
		t.Errorf("a clean checkpoint: %+v", j.Validation.NonFinite)
	}
}

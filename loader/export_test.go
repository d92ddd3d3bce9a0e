package loader

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// TestExportOfATeam: nodes that hold a part each write what one process does,
// with copies that are not needed left out, and only where they may.
func TestExportOfATeam(t *testing.T) {
	uri := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, uri)
	root := t.TempDir()
	m := newTeam(t, uri, build(t, ix, shard.Options{Scheme: "int8", Layout: shard.Layout{TP: 2, DP: 2}}), 3, NodeOptions{ExportRoots: []string{root}})
	if _, err := m.owner(1).DumpRank(t.Context(), "j", 1, filepath.Join(root, "r1")); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("dumped before it is sealed: %v", err)
	}
	m.load(t.Context())
	var dumps []Dump
	for rank := 1; rank < len(m.holds); rank++ {
		if m.owner(rank) == m.owner(0) {
			continue
		}
		d := Dump{Rank: rank, Path: filepath.Join(root, "dumps", string(rune('a'+rank)))}
		var err error
		if d.Digest, err = m.owner(rank).DumpRank(t.Context(), "j", rank, d.Path); err != nil {
			t.Fatal(err)
		}
		if rank >= 2 && (d.Digest != [16]byte{} || exists(d.Path)) {
			t.Errorf("rank %d, a copy, was dumped", rank)
		}
		dumps = append(dumps, d)
	}
	spec := ExportSpec{Name: "m", Path: filepath.Join(root, "out"), Index: ix, Dumps: dumps}
	if _, err := m.owner(0).Export(t.Context(), "j", spec); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(t.TempDir(), "want")
	if err := load(t, uri, WithQuantization(quant.Config{Scheme: "int8"})).Export(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"model.safetensors", "config.json"} {
		a, err := os.ReadFile(filepath.Join(spec.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(want, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s is another", name)
		}
	}

	// What is refused, or fails, makes no folder.
	for _, c := range []struct {
		path string
		want recovery.Class
	}{{"new/out.gguf", recovery.Usage}, {"new/out", ""}, {"new/out.safetensors", ""}} {
		e := ExportSpec{Name: "m", Path: filepath.Join(root, c.path), Index: ix} // without the dumps
		err := m.owner(0).CheckExport(t.Context(), "j", e)
		if (err != nil) != (c.want != "") || err != nil && recovery.ClassOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
		e.Dumps = dumps
		stopped, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.owner(0).Export(stopped, "j", e); err == nil {
			t.Errorf("%s: no error", c.path)
		}
		if exists(filepath.Join(root, "new")) {
			t.Errorf("%s: the folder stays", c.path)
		}
	}
	if err := m.owner(0).CheckExport(t.Context(), "j", ExportSpec{Name: "m", Path: filepath.Join(t.TempDir(), "out"), Index: ix}); recovery.ClassOf(err) != recovery.NotAllowed {
		t.Errorf("outside of the folders: %v", err)
	}

	// A dump that changed, one that is missing, a rank that nobody has.
	b, err := os.ReadFile(dumps[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2]++
	if err := os.WriteFile(dumps[0].Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*ExportSpec)
		want   recovery.Class
	}{
		{func(e *ExportSpec) {}, recovery.DigestMismatch},
		{func(e *ExportSpec) { e.Dumps = []Dump{{Rank: 1, Path: "/nowhere", Digest: [16]byte{1}}} }, recovery.NotFound},
		{func(e *ExportSpec) { e.Dumps = nil }, recovery.Stale},
		{func(e *ExportSpec) { e.Path = filepath.Join(t.TempDir(), "out") }, recovery.NotAllowed},
		{func(e *ExportSpec) { e.Path = filepath.Join(root, "..", "out") }, recovery.NotAllowed},
	} {
		e := spec
		c.change(&e)
		if _, err := m.owner(0).Export(t.Context(), "j", e); recovery.ClassOf(err) != c.want {
			t.Errorf("%+v: %v, want %s", e, err, c.want)
		}
	}
	for rank, path := range map[int]string{1: filepath.Join(t.TempDir(), "x"), 5: filepath.Join(root, "x")} {
		if _, err := m.owner(1).DumpRank(t.Context(), "j", rank, path); recovery.ClassOf(err) != recovery.NotAllowed && recovery.ClassOf(err) != recovery.Stale || exists(path) {
			t.Errorf("rank %d to %s: %v", rank, path, err)
		}
	}
	if err := m.owner(1).RemoveDump(filepath.Join(t.TempDir(), "x")); recovery.ClassOf(err) != recovery.NotAllowed {
		t.Errorf("removed outside of the folders: %v", err)
	}
	for range 2 { // the second time it is gone already
		if err := m.owner(1).RemoveDump(dumps[0].Path); err != nil || exists(dumps[0].Path) {
			t.Errorf("a dump is not removed: %v", err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

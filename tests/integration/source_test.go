package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// copied is the trained model in a folder that a test may spoil.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(Testdata(t), "stories260K", "hf-f32"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "model.safetensors"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// invert changes a byte of a file in place.
func invert(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] = ^b[0]
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// TestSourceChanges: a file that is written to during a load ends it, and is
// never mixed.
func TestSourceChanges(t *testing.T) {
	c := StartCluster(t, bin, 2)
	q := slow(t, "changes", 2)
	q.URI = copied(t)
	j := c.Submit(q)
	c.Until("something is placed", func() bool { return c.Status(j.Job).Counters.ChunksDone >= 2 })
	invert(t, filepath.Join(q.URI, "model.safetensors"), 1_000_000)
	end := c.Await(j.Job)
	if end.State != messages.StateFailed || end.Class != recovery.SourceChanged || !strings.Contains(end.Why, "model.safetensors") {
		t.Errorf("%s, class %s: %s", end.State, end.Class, end.Why)
	}
}

// TestWrongBytes: bytes that are not those that the checkpoint's digests were
// made of end a load, however often they are read again.
func TestWrongBytes(t *testing.T) {
	dir := copied(t)
	if out, err := exec.Command(filepath.Join(bin, "gantry"), "verify", "--write", dir).CombinedOutput(); err != nil {
		t.Fatalf("verify --write: %v: %s", err, out)
	}
	invert(t, filepath.Join(dir, "model.safetensors"), 1_000_000)
	c := StartCluster(t, bin, 2)
	q := stories(t, "hf-f32", "wrong", 2)
	q.URI, q.Recovery = dir, "retry(2)"
	end := c.Load(q)
	if end.State != messages.StateFailed || end.Class != recovery.DigestMismatch || !strings.Contains(end.Why, "model.safetensors") || !strings.Contains(end.Why, "tensor") {
		t.Errorf("%s, class %s: %s", end.State, end.Class, end.Why)
	}
}

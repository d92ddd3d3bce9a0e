package checkpoint_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/require"
)

// asking writes a model that asks for something in its metadata, in a file
// beside it, or not ("").
func asking(t *testing.T, metadata, beside string) string {
	t.Helper()
	dir := t.TempDir()
	var more map[string]string
	if metadata != "" {
		more = map[string]string{"gantry.require": metadata}
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), []safetensors.Tensor{{Name: "a", DType: dtype.U8, Shape: []int64{1}}}, more)
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	if beside != "" {
		writeText(t, filepath.Join(dir, checkpoint.RequireName), beside)
	}
	return dir
}

func TestRequire(t *testing.T) {
	for _, c := range []struct {
		metadata, beside string
		want             require.Requirements
	}{
		{"", "", require.Requirements{}},
		{"", "{}", require.Requirements{}},
		{"", `{"device": "cuda", "compute_capability": "8.0", "cpu_features": ["avx2"], "memory": 17179869184}`,
			require.Requirements{Device: "cuda", Compute: "8.0", CPU: []string{"avx2"}, Memory: 16 << 30}},
		{`{"memory": 5}`, "", require.Requirements{Memory: 5}},
		{`{"memory": 5, "cpu_features": ["f16c"]}`, `{"memory": 3, "device": "cpu"}`, require.Requirements{Device: "cpu", CPU: []string{"f16c"}, Memory: 5}},
	} {
		dir := asking(t, c.metadata, c.beside)
		for _, path := range []string{dir, filepath.Join(dir, "model.safetensors")} {
			ix, err := open(t, path)
			if err != nil {
				t.Errorf("%+v: %v", c, err)
				continue
			}
			if diff := cmp.Diff(c.want, ix.Require); diff != "" {
				t.Errorf("%s: %s", path, diff)
			}
		}
	}
	for text, why := range map[string]string{
		`{"device": "tpu"}`: `device "tpu"`, `{"gpu": true}`: "unknown field", `{} {}`: "more follows", `{"memory": "16GiB"}`: "cannot unmarshal", "": "EOF", "[]": "cannot unmarshal",
		strings.Repeat(" ", 70000): "at most",
	} {
		dir := asking(t, "", " "+text)
		if _, err := open(t, dir); recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), checkpoint.RequireName) {
			t.Errorf("%.40q: %v, want class invalid_checkpoint and %q", text, err, why)
		}
	}
	if _, err := open(t, asking(t, `{"device": "cuda"}`, `{"device": "cpu"}`)); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
		t.Errorf("a model that asks for two kinds: %v", err)
	}
}

// TestRequireIsInTheDigest: plans are kept by it.
func TestRequireIsInTheDigest(t *testing.T) {
	dir := asking(t, "", "")
	before, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(dir, checkpoint.RequireName), `{"memory": 1}`)
	after, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if before.Digest() == after.Digest() {
		t.Error("the digest is the same with and without requirements")
	}
}

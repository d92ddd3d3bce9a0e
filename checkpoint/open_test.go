package checkpoint_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/source"
)

// testdata returns the folder of shared test data, or ends the test.
func testdata(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("GANTRY_TESTDATA"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		at := filepath.Join(dir, "..", "shared", "testdata")
		if _, err := os.Stat(at); err == nil {
			return at
		}
	}
	t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds stories260K/")
	return ""
}

func open(t testing.TB, uri string) (*checkpoint.Index, error) {
	t.Helper()
	src, err := source.Open(context.Background(), uri, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	return checkpoint.Open(context.Background(), src)
}

// TestStories opens a real model in each of its forms.
func TestStories(t *testing.T) {
	want := checkpoint.Architecture{
		Name: "llama", Layers: 5, Hidden: 64, Intermediate: 172, Heads: 8, KVHeads: 4, HeadDim: 8,
		Vocab: 512, Context: 512, RopeTheta: 10000, NormEps: 1e-5, TiedEmbeddings: true, Parameters: 260_032,
	}
	for _, form := range []struct {
		name  string
		files int
	}{{"hf-f32", 1}, {"hf-bf16", 1}, {"hf-f16", 1}, {"hf-sharded", 3}, {"hf-sharded/model.safetensors.index.json", 3}} {
		t.Run(form.name, func(t *testing.T) {
			ix, err := open(t, filepath.Join(testdata(t), "stories260K", form.name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, ix.Architecture); diff != "" {
				t.Error(diff)
			}
			if len(ix.Tensors) != 47 || len(ix.Files) != form.files {
				t.Errorf("%d tensors in %d files, want 47 in %d", len(ix.Tensors), len(ix.Files), form.files)
			}
			text, err := json.Marshal(ix)
			if err != nil {
				t.Fatal(err)
			}
			var back checkpoint.Index
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*ix, back); diff != "" {
				t.Errorf("changed on its way through JSON: %s", diff)
			}
			if ix.Digest() != back.Digest() {
				t.Error("the digest changed on its way through JSON")
			}
		})
	}
}

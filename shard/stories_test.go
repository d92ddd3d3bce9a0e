package shard_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// stories returns one form of stories260K, a trained model of the Llama
// family: 8 heads, 4 kv heads, hidden 64, intermediate 172, 5 layers, tied.
func stories(t *testing.T, form string) *stored {
	t.Helper()
	root := os.Getenv("GANTRY_TESTDATA")
	if root == "" {
		for dir := ".."; root == ""; dir = filepath.Join("..", dir) {
			at := filepath.Join(dir, "shared", "testdata")
			if abs, err := filepath.Abs(dir); err != nil || abs == "/" {
				t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds stories260K/")
			}
			if _, err := os.Stat(at); err == nil {
				root = at
			}
		}
	}
	dir := filepath.Join(root, "stories260K", form)
	ctx := context.Background()
	src, err := source.Open(ctx, dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	s := &stored{}
	if s.ix, err = checkpoint.Open(ctx, src); err != nil {
		t.Fatal(err)
	}
	for _, f := range s.ix.Files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		s.files = append(s.files, b)
	}
	return s
}

// TestStories plans a real checkpoint in each form and layout, and joins what
// its ranks would hold.
func TestStories(t *testing.T) {
	for _, form := range []string{"hf-f32", "hf-f16", "hf-bf16", "hf-sharded"} {
		s := stories(t, form)
		for _, scheme := range []string{"none", "int8", "q8_0"} {
			for _, layout := range []shard.Layout{{TP: 1}, {TP: 2}, {TP: 4}, {TP: 2, PP: 3, DP: 2}} {
				t.Run(fmt.Sprintf("%s/%s/%s", form, scheme, layout), func(t *testing.T) {
					p, err := shard.Build(s.ix, shard.Options{Layout: layout, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
					if err != nil {
						t.Fatal(err)
					}
					if len(p.Tensors) != 47 || p.StoredBytes != p.ReadBytes || len(p.Warnings) != min(len(p.Straddles), 1) {
						t.Errorf("%d tensors, stored %d, read %d, warnings %q", len(p.Tensors), p.StoredBytes, p.ReadBytes, p.Warnings)
					}
					// 172 columns do not divide into blocks of 32.
					if want := map[string]int{"q8_0": 5}[scheme]; len(p.Fallbacks) != want {
						t.Errorf("fallbacks %v, want %d", p.Fallbacks, want)
					}
					checkJoin(t, t, s, p, load(t, t, s, p), 7)
				})
			}
		}
	}
}

// TestStoriesSharded shows that where a tensor is stored does not matter to
// what the ranks hold.
func TestStoriesSharded(t *testing.T) {
	o := shard.Options{Layout: shard.Layout{TP: 4}, Scheme: "q8_0"}
	var arenas [2]map[string][]byte
	for i, form := range []string{"hf-f32", "hf-sharded"} {
		s := stories(t, form)
		p, err := shard.Build(s.ix, o)
		if err != nil {
			t.Fatal(err)
		}
		arenas[i] = map[string][]byte{}
		filled := load(t, t, s, p)
		for _, r := range p.Ranks {
			for _, slice := range r.Slices {
				for j, at := range slice.Planes {
					arenas[i][fmt.Sprint(r.Rank, p.Tensors[slice.Tensor].Name, j)] = filled[r.Rank][at.Offset : at.Offset+at.Bytes]
				}
			}
		}
	}
	if len(arenas[0]) != 4*47 || len(arenas[0]) != len(arenas[1]) {
		t.Fatalf("%d and %d planes, want %d", len(arenas[0]), len(arenas[1]), 4*47)
	}
	for name, b := range arenas[0] {
		if !bytes.Equal(b, arenas[1][name]) {
			t.Errorf("%s differs", name)
		}
	}
}

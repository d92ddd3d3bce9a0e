package shard_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// small is a plan with every kind of cut, two planes and straddles.
func small(t testing.TB, o shard.Options) *shard.Plan {
	t.Helper()
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Architecture: checkpoint.Architecture{Name: "llama", Heads: 2, KVHeads: 1}}}
	s.add(0, 0, "model.embed_tokens.weight", dtype.F32, 5, 32)
	s.add(0, 0, "model.layers.0.self_attn.q_proj.weight", dtype.F32, 16, 32)
	s.add(0, 0, "model.layers.0.self_attn.k_proj.weight", dtype.F32, 8, 32)
	s.add(1, 0, "model.layers.0.mlp.down_proj.weight", dtype.F32, 32, 96)
	s.add(1, 0, "model.norm.weight", dtype.F32, 32)
	s.ix.Files[0].Size += 8 // more than its tensors
	p, err := shard.Build(s.ix, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func planJSON(t testing.TB, p *shard.Plan) []byte {
	t.Helper()
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParsePlanRefuses changes one number of a plan at a time, to several
// values: what ParsePlan does not refuse must be a number that points nowhere.
func TestParsePlanRefuses(t *testing.T) {
	for scheme, values := range map[string]func(float64) []float64{
		"int8": func(v float64) []float64 { return []float64{-1, v + 1} },
		"q8_0": func(float64) []float64 { return []float64{1 << 40} },
	} {
		for _, p := range []*shard.Plan{small(t, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: scheme}), several(t, scheme)} {
			refuses(t, p, values)
		}
	}
}

// several is a plan whose ranks hold several slices of a tensor, some of them
// padded.
func several(t testing.TB, scheme string) *shard.Plan {
	t.Helper()
	s := &stored{ix: &checkpoint.Index{Format: "safetensors", Architecture: checkpoint.Architecture{Name: "novel", Heads: 2, KVHeads: 2}}}
	s.add(0, 0, "token_embd.weight", dtype.F32, 5, 32)
	s.add(0, 0, "blk.0.qkv_proj.weight", dtype.F32, 12, 32)
	s.add(0, 0, "blk.0.ffn_up_exps.weight", dtype.F32, 4, 4, 32)
	p, err := shard.Build(s.ix, shard.Options{Layout: shard.Layout{TP: 2, EP: 2}, Scheme: scheme, PadVocab: 8})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refuses changes each number of a plan to the given values.
func refuses(t *testing.T, p *shard.Plan, values func(float64) []float64) {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(planJSON(t, p), &tree); err != nil {
		t.Fatal(err)
	}
	changed := 0
	var walk func(path string, v any, set func(any))
	walk = func(path string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(path+"."+k, e, func(n any) { v[k] = n })
			}
		case []any:
			for i, e := range v {
				walk(path+"[]", e, func(n any) { v[i] = n })
			}
		case float64:
			for _, n := range values(v) {
				set(n)
				b, err := json.Marshal(tree)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := shard.ParsePlan(b); err == nil && !harmless[path] {
					t.Errorf("%s: %v in place of %v is accepted", path, n, v)
				}
				changed++
			}
			set(v)
		}
	}
	walk("", tree, nil)
	if changed < 100 {
		t.Errorf("only %d changes", changed)
	}
}

// harmless are the numbers that inform only: nothing is addressed by them.
var harmless = map[string]bool{
	".stored_bytes": true, ".read_bytes": true, ".placed_bytes": true, ".tensors[].shape[]": true,
	".files[].size": true, ".options.chunk_bytes": true,
	// A range may move where what it addresses moves with it.
	".tensors[].offset": true, ".chunks[].offset": true, ".chunks[].file": true, ".tensors[].file": true,
}

func TestParsePlanText(t *testing.T) {
	good := string(planJSON(t, small(t, shard.Options{})))
	for _, bad := range []string{
		"", "null", "{}", "[]", good[:len(good)/2], good + good,
		strings.Replace(good, `"version":3`, `"version":1`, 1),
		strings.Replace(good, `"version":3`, `"version":3,"colour":"red"`, 1),
		strings.Replace(good, `"scheme":"none"`, `"scheme":"q9_9"`, 1),
		strings.Replace(good, `"scheme":"none"`, `"scheme":""`, 1),
		strings.Replace(good, `"dtype":"F32"`, `"dtype":"I64"`, 1),
		strings.Replace(good, `"tp":1`, `"tp":2`, 1),
	} {
		if _, err := shard.ParsePlan([]byte(bad)); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("ParsePlan(%.60q) = %v, want an error of class usage", bad, err)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	for _, o := range []shard.Options{{}, {Layout: shard.Layout{TP: 2}, Scheme: "q8_0"}, {Layout: shard.Layout{DP: 2}, Scheme: "int8"}} {
		f.Add(planJSON(f, small(f, o)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := shard.ParsePlan(b)
		if err != nil {
			return
		}
		again, err := shard.ParsePlan(planJSON(t, p))
		if err != nil {
			t.Fatalf("a plan that was read is refused: %v", err)
		}
		if !bytes.Equal(planJSON(t, p), planJSON(t, again)) {
			t.Fatal("the canonical form is not stable")
		}
		// Whatever was accepted can be walked without a panic.
		arena := func(rank int, b []byte, off int64) error { return nil }
		for i := range p.Tensors {
			if tensor := &p.Tensors[i]; tensor.Rows > 0 && tensor.Bytes < 1<<20 {
				var dst [][]byte
				for _, plane := range tensor.Layout.Planes {
					dst = append(dst, make([]byte, plane.RowBytes(tensor.Cols)))
				}
				if err := p.JoinRows(i, shard.Span{Start: 0, Stop: 1}, dst, arena); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range p.Ranks {
			p.Fingerprint(i)
		}
	})
}

// TestFingerprint says what a fingerprint depends on.
func TestFingerprint(t *testing.T) {
	tp2 := shard.Layout{TP: 2}
	base := small(t, shard.Options{Layout: tp2, Scheme: "int8"})
	same := map[string]*shard.Plan{
		"chunk size": small(t, shard.Options{Layout: tp2, Scheme: "int8", ChunkBytes: shard.MinChunkBytes}),
		"copies":     small(t, shard.Options{Layout: shard.Layout{TP: 2, DP: 2}, Scheme: "int8"}),
	}
	for what, p := range same {
		if p.Fingerprint(1) != base.Fingerprint(1) {
			t.Errorf("%s changes the fingerprint", what)
		}
	}
	copies := same["copies"]
	if copies.Fingerprint(0) != copies.Fingerprint(2) {
		t.Error("copies have different fingerprints")
	}
	seen := map[string]string{base.Fingerprint(0): "rank 0"}
	for what, got := range map[string]string{
		"rank":   base.Fingerprint(1),
		"layout": small(t, shard.Options{Scheme: "int8"}).Fingerprint(0),
		"scheme": small(t, shard.Options{Layout: tp2}).Fingerprint(0),
		"q8_0":   small(t, shard.Options{Layout: tp2, Scheme: "q8_0"}).Fingerprint(0),
		"override": small(t, shard.Options{Layout: tp2, Scheme: "int8",
			Overrides: []shard.Override{{Pattern: "*.q_proj", Scheme: "f16"}}}).Fingerprint(0),
	} {
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same fingerprint", what, other)
		}
		seen[got] = what
	}
}

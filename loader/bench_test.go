package loader

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// synth writes a Llama-shaped BF16 checkpoint of the given number of layers,
// about 34 MiB each, and returns its folder. Its values repeat every MiB,
// which is all that these tests need of them.
func synth(t testing.TB, layers int) string {
	t.Helper()
	const hidden, inter, kv, vocab = 1024, 2816, 256, 1000
	var list []safetensors.Tensor
	add := func(name string, shape ...int64) {
		list = append(list, safetensors.Tensor{Name: name + ".weight", DType: dtype.BF16, Shape: shape})
	}
	add("model.embed_tokens", vocab, hidden)
	for i := range layers {
		p := "model.layers." + string(rune('0'+i)) + "."
		add(p+"input_layernorm", hidden)
		add(p+"self_attn.q_proj", hidden, hidden)
		add(p+"self_attn.k_proj", kv, hidden)
		add(p+"self_attn.v_proj", kv, hidden)
		add(p+"self_attn.o_proj", hidden, hidden)
		add(p+"post_attention_layernorm", hidden)
		add(p+"mlp.gate_proj", inter, hidden)
		add(p+"mlp.up_proj", inter, hidden)
		add(p+"mlp.down_proj", hidden, inter)
	}
	add("model.norm", hidden)
	dir := t.TempDir()
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	block := make([]byte, 1<<20)
	for i := 0; i < len(block); i += 2 {
		// Exponents of ordinary weights: 2^-8 to 2^-1.
		block[i], block[i+1] = byte(r.Uint32()), byte(r.Uint32())&0x80|0x3b+byte(r.Uint32()&3)
	}
	for i, x := range w.Tensors() {
		for off := int64(0); off < x.Bytes; off += int64(len(block)) {
			if err := w.WriteTensor(i, block[:min(int64(len(block)), x.Bytes-off)], off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	config := `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":1024,"intermediate_size":2816,
"num_hidden_layers":` + string(rune('0'+layers)) + `,"num_attention_heads":16,"num_key_value_heads":4,"vocab_size":1000,
"max_position_embeddings":2048,"rms_norm_eps":1e-05,"rope_theta":10000.0,"tie_word_embeddings":true}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BenchmarkLoad sets whole loads from a warm page cache against a copy of the
// same number of bytes from memory to memory by all cores, in the same run.
// Rates are of stored bytes.
func BenchmarkLoad(b *testing.B) {
	dir := synth(b, 9)
	_, ix := open(b, dir)
	var stored int64
	for _, x := range ix.Tensors {
		stored += x.Bytes
	}
	for _, c := range []struct {
		scheme string
		tp     int
		mmap   bool
	}{{"q8_0", 2, false}, {"q8_0", 1, false}, {"q8_0", 2, true}, {"int8", 2, false}, {"none", 2, false}, {"none", 1, false}} {
		name := c.scheme + "-tp" + string(rune('0'+c.tp))
		if c.mmap {
			name += "-mmap"
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(stored)
			for b.Loop() {
				m, err := New(WithLayout(shard.Layout{TP: c.tp}), WithMmap(c.mmap), WithQuantization(quant.Config{Scheme: c.scheme})).Load(b.Context(), dir)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	// What digests cost, in turns: the rest of the machine is in both.
	with := digested(b, 9)
	for _, scheme := range []string{"none", "q8_0"} {
		plain := build(b, ix, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: scheme})
		_, checked := open(b, with)
		verified := build(b, checked, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: scheme})
		b.Run("digests-"+scheme, func(b *testing.B) {
			// The least of each: what else runs only ever adds.
			took := [2]time.Duration{math.MaxInt64, math.MaxInt64}
			for b.Loop() {
				for i, c := range []struct {
					dir  string
					plan *shard.Plan
				}{{dir, plain}, {with, verified}} {
					m := newTeam(b, c.dir, c.plan, 1, NodeOptions{})
					begun := time.Now()
					m.chunks(b.Context())
					took[i] = min(took[i], time.Since(begun))
					if err := m.nodes[0].Close("j"); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(took[1])/float64(took[0]), "with/without")
		})
	}
	// The load phase alone: arenas are there, nothing is validated.
	for _, mode := range []source.Mode{source.ModePread, source.ModeMmap} {
		b.Run("phase-q8_0-tp2-"+string(mode), func(b *testing.B) {
			plan := build(b, ix, shard.Options{Layout: shard.Layout{TP: 2}, Scheme: "q8_0"})
			o := NodeOptions{Open: func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
				return source.Open(ctx, uri, source.Options{Mode: mode})
			}}
			b.SetBytes(stored)
			for b.Loop() {
				b.StopTimer()
				m := newTeam(b, dir, plan, 1, o)
				b.StartTimer()
				m.chunks(b.Context())
				b.StopTimer()
				if err := m.nodes[0].Close("j"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	b.Run("pread", func(b *testing.B) {
		b.SetBytes(stored)
		for b.Loop() {
			readAll(b, filepath.Join(dir, "model.safetensors"))
		}
	})
	src, err := device.NewArena(device.CPU, stored)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	dst, err := device.NewArena(device.CPU, stored)
	if err != nil {
		b.Fatal(err)
	}
	defer dst.Close()
	b.Run("memcpy", func(b *testing.B) {
		b.SetBytes(stored)
		for i := range src.Host() { // pages that were never written are all one page
			src.Host()[i] = byte(i)
		}
		copyAll(dst.Host(), src.Host())
		for b.Loop() {
			copyAll(dst.Host(), src.Host())
		}
	})
}

// copyAll copies a part on each core, as many as the loads have.
func copyAll(dst, src []byte) {
	var wg sync.WaitGroup
	cores := runtime.GOMAXPROCS(0)
	for i := range cores {
		from, to := len(src)*i/cores, len(src)*(i+1)/cores
		wg.Go(func() { copy(dst[from:to], src[from:to]) })
	}
	wg.Wait()
}

// readAll reads a file once with two goroutines into a reused buffer each:
// what the kernel allows at most.
func readAll(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			buf := make([]byte, slabBytes)
			for {
				at := next.Add(slabBytes) - slabBytes
				if at >= info.Size() {
					return
				}
				n := min(slabBytes, info.Size()-at)
				if _, err := f.ReadAt(buf[:n], at); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

package checkpoint_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/source"
)

// largeHeaders are the files of the largest models that people have, as far as
// their headers go: their tensors' bytes are a hole.
func largeHeaders(t testing.TB) map[string]header {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, head []byte, size int64) header {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, head, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		return header{path, head}
	}
	st, size := manyTensors(100_000)
	vocabulary := manyTokens(150_000)
	return map[string]header{
		"safetensors of 100,000 tensors": write("model.safetensors", st, size),
		"GGUF of 150,000 tokens":         write("model.gguf", vocabulary, int64(len(vocabulary))),
	}
}

type header struct {
	path  string
	bytes []byte // all of the file but tensors' bytes
}

// index opens the checkpoint as a load would.
func (h header) index(t testing.TB) *checkpoint.Index {
	src, err := source.Open(context.Background(), h.path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ix, err := checkpoint.Open(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// yardstick is what indexing is compared with: the least that anyone could do
// with the same bytes.
func (h header) yardstick(t testing.TB) {
	if filepath.Ext(h.path) == ".safetensors" {
		if !json.Valid(h.bytes[8:]) {
			t.Fatal("the header is not JSON")
		}
		return
	}
	sum := byte(0)
	for _, x := range h.bytes {
		sum += x
	}
	if sum == 0 {
		t.Fatal("the sum of the bytes is 0")
	}
}

// manyTensors is a safetensors header of n expert weights of 32 bytes each.
func manyTensors(n int) (head []byte, fileSize int64) {
	const each = 32
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"model.layers.%d.mlp.experts.%d.gate_proj.weight":{"dtype":"BF16","shape":[4,4],"data_offsets":[%d,%d]}`,
			i/256, i%256, each*i, each*i+each)
	}
	b.WriteByte('}')
	head = append(binary.LittleEndian.AppendUint64(nil, uint64(b.Len())), b.Bytes()...)
	return head, int64(len(head)) + each*int64(n)
}

// manyTokens is a GGUF file of n tokens of some bytes each, with the scores,
// kinds and merges that tokenizers have besides.
func manyTokens(n int) []byte {
	tokens, merges := make([]string, n), make([]string, n)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("Ġtok%d", i*7919%n)
		merges[i] = fmt.Sprintf("Ġ tok%d", i)
	}
	return gguftest.File{Keys: [][]byte{
		gguftest.KV("general.architecture", "llama"),
		gguftest.KV("llama.block_count", uint32(0)),
		gguftest.KV("tokenizer.ggml.model", "gpt2"),
		gguftest.KV("tokenizer.ggml.tokens", tokens),
		gguftest.KV("tokenizer.ggml.scores", make([]float32, n)),
		gguftest.KV("tokenizer.ggml.token_type", make([]int32, n)),
		gguftest.KV("tokenizer.ggml.merges", merges),
	}}.Bytes()
}

// BenchmarkIndex opens large headers and tells how much longer that takes than
// encoding/json.Valid takes over a safetensors header, and a plain scan over a
// GGUF file: at most four times. The two take turns, and the shortest time of
// each counts, so that what else the machine does matters little.
func BenchmarkIndex(b *testing.B) {
	for name, h := range largeHeaders(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(h.bytes)))
			least, yard := time.Duration(1<<62), time.Duration(1<<62)
			for b.Loop() {
				start := time.Now()
				h.index(b)
				least = min(least, time.Since(start))
				b.StopTimer()
				start = time.Now()
				h.yardstick(b)
				yard = min(yard, time.Since(start))
				b.StartTimer()
			}
			b.ReportMetric(float64(least)/float64(yard), "times-the-yardstick")
		})
	}
}

package synth_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, o synth.Options) (string, synth.Result) {
	t.Helper()
	dir := t.TempDir()
	r, err := synth.Write(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func open(t testing.TB, dir string) *checkpoint.Index {
	t.Helper()
	src, err := source.Open(context.Background(), dir, source.Options{})
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

// folderDigest covers names and bytes of all files but gantry.digests.json,
// which is what it is because they are what they are.
func folderDigest(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == digests.Name })
	h := xxh3.New()
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %d\n", e.Name(), len(data))
		h.Write(data)
	}
	sum := h.Sum128().Bytes()
	return hex.EncodeToString(sum[:])
}

// TestGolden pins the bytes that options stand for, however many processors
// wrote them.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		o      synth.Options
		digest string
	}{
		{synth.Options{Bytes: 4 << 20, Seed: 1, Shards: 3}, "e88670ba3ffbb146eae86806f2c79e4a"},
		{synth.Options{Bytes: 4 << 20, Seed: 2, Shards: 3}, "ea6f37727a5bceb1cbf1c8a49b8f3f8a"},
		{synth.Options{Bytes: 2 << 20, DType: dtype.F16, Shards: 1}, "581db60562256d2d52d21550501cc276"},
		{synth.Options{Bytes: 3 << 20, DType: dtype.F32, Shards: 1}, "8d77941ae3eb8f18871bf9d260742b3e"},
	} {
		for _, procs := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s seed %d, %d processors", c.o.DType, c.o.Seed, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				dir, _ := write(t, c.o)
				if got := folderDigest(t, dir); got != c.digest {
					t.Errorf("digest %s, want %s", got, c.digest)
				}
			})
		}
	}
}

// TestSize holds the picker to sizes, shapes and proportions.
func TestSize(t *testing.T) {
	for _, o := range []synth.Options{
		{Bytes: 1 << 20, Shards: 1},
		{Bytes: 3_000_000, Shards: 2},
		{Bytes: 16 << 20, Shards: 4},
		{Bytes: 24 << 20, Shards: 1, DType: dtype.F32},
		{Bytes: 32 << 20},
	} {
		t.Run(fmt.Sprint(o.Bytes), func(t *testing.T) {
			dir, r := write(t, o)
			if off := math.Abs(float64(r.Bytes)/float64(o.Bytes) - 1); off > 0.02 {
				t.Errorf("%d bytes, %.1f %% off", r.Bytes, 100*off)
			}
			ix := open(t, dir)
			a := ix.Architecture
			if a.Name != "llama" || a.Parameters != r.Parameters || a.TiedEmbeddings {
				t.Errorf("architecture %+v, wrote %+v", a, r)
			}
			if want := max(o.Shards, 1); len(ix.Files) != want {
				t.Errorf("%d files, want %d", len(ix.Files), want)
			}
			if a.HeadDim != 64 && a.HeadDim != 128 || a.KVHeads >= a.Heads || a.Heads%a.KVHeads != 0 ||
				a.Hidden%256 != 0 || a.Intermediate%256 != 0 || a.Vocab%64 != 0 {
				t.Errorf("unrealistic: %+v", a)
			}
		})
	}
}

const tinyConfig = `{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
	"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "tie_word_embeddings": true, "rope_theta": 1e4, "extra": 12345678901234567890,
	"limits": [0.0, Infinity]}`

func TestConfig(t *testing.T) {
	dir, r := write(t, synth.Options{Config: []byte(tinyConfig), DType: dtype.F32, Shards: 1})
	ix := open(t, dir)
	if a := ix.Architecture; a.Hidden != 32 || a.Layers != 2 || a.HeadDim != 8 || !a.TiedEmbeddings || a.Parameters != r.Parameters {
		t.Errorf("%+v", a)
	}
	for _, want := range []string{`"extra":12345678901234567890`, `"limits":[0.0,1e999]`, `"torch_dtype":"float32"`} {
		if !bytes.Contains(ix.Config, []byte(want)) {
			t.Errorf("config.json lacks %s: %s", want, ix.Config)
		}
	}
}

// TestDistribution looks at one written matrix: mean, deviation, outliers, and
// that no two rows are equal.
func TestDistribution(t *testing.T) {
	dir, _ := write(t, synth.Options{Bytes: 6 << 20, DType: dtype.F32, Shards: 1})
	ix := open(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ix.Tensors, func(x checkpoint.Tensor) bool { return x.Name == "model.layers.0.mlp.up_proj.weight" })
	x := ix.Tensors[i]
	cols := int(x.Shape[1])
	raw := data[x.Offset : x.Offset+x.Bytes]
	columns := make([]float64, cols) // sums of squares
	rows := map[string]bool{}
	sum := 0.0
	for r := range int(x.Shape[0]) {
		line := raw[r*cols*4 : (r+1)*cols*4]
		rows[string(line)] = true
		for c := range cols {
			b := line[4*c : 4*c+4]
			v := float64(math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
			sum += v
			columns[c] += v * v
		}
	}
	if len(rows) != int(x.Shape[0]) {
		t.Errorf("%d different rows of %d", len(rows), x.Shape[0])
	}
	slices.Sort(columns)
	deviation := func(squares float64) float64 { return math.Sqrt(squares / float64(x.Shape[0])) }
	want := 1 / math.Sqrt(float64(cols))
	if median := deviation(columns[cols/2]); math.Abs(median/want-1) > 0.05 {
		t.Errorf("the median column deviates by %g, want %g", median, want)
	}
	if widest := deviation(columns[cols-1]); widest < 4*want {
		t.Errorf("the widest column deviates by %g: no outliers", widest)
	}
	if mean := sum / float64(len(raw)/4); math.Abs(mean) > want/50 {
		t.Errorf("mean %g", mean)
	}
}

func TestProgress(t *testing.T) {
	last, total := int64(0), int64(0)
	_, r := write(t, synth.Options{Bytes: 16 << 20, Progress: func(done, of int64) {
		if done <= last {
			t.Errorf("progress went from %d to %d", last, done)
		}
		last, total = done, of
	}})
	if last != r.Bytes || total != r.Bytes {
		t.Errorf("progress ended at %d of %d, wrote %d", last, total, r.Bytes)
	}
}

// TestCancel leaves nothing behind.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := t.TempDir()
	_, err := synth.Write(ctx, dir, synth.Options{Bytes: 16 << 20, Shards: 3, Progress: func(_, _ int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want cancelled", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left %v behind (%v)", entries, err)
	}
}

// TestAgain writes over what it wrote, and refuses another's folder.
func TestAgain(t *testing.T) {
	o := synth.Options{Config: []byte(tinyConfig), Shards: 2}
	dir, _ := write(t, o)
	before := folderDigest(t, dir)
	if _, err := synth.Write(context.Background(), dir, o); err != nil {
		t.Error(err)
	}
	if folderDigest(t, dir) != before {
		t.Error("the same options gave other bytes")
	}
	o.Shards = 1
	if _, err := synth.Write(context.Background(), dir, o); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("wrote one file beside the shards of another checkpoint: %v", err)
	}
	theirs := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(theirs, []byte("trained"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := synth.Write(context.Background(), filepath.Dir(theirs), o); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("wrote over a model that it did not write: %v", err)
	}
	if b, err := os.ReadFile(theirs); err != nil || string(b) != "trained" {
		t.Errorf("that model is %q, %v", b, err)
	}
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		o    synth.Options
		want recovery.Class
	}{
		"architecture":     {synth.Options{Arch: "gpt2"}, recovery.Unsupported},
		"element type":     {synth.Options{DType: dtype.I8}, recovery.Usage},
		"too small":        {synth.Options{Bytes: 1000}, recovery.Usage},
		"negative":         {synth.Options{Bytes: -1}, recovery.Usage},
		"too many shards":  {synth.Options{Config: []byte(tinyConfig), Shards: 999}, recovery.Usage},
		"config, no JSON":  {synth.Options{Config: []byte(`{`)}, recovery.InvalidCheckpoint},
		"config of others": {synth.Options{Config: []byte(`{"model_type": "bert"}`)}, recovery.Unsupported},
		"config, no sizes": {synth.Options{Config: []byte(`{"model_type": "llama"}`)}, recovery.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := synth.Write(context.Background(), dir, c.o); recovery.ClassOf(err) != c.want {
				t.Errorf("got %v, want class %s", err, c.want)
			}
		})
	}
}

// TestShards cuts one model into any number of files: its tensors keep their
// bytes, and every file has some.
func TestShards(t *testing.T) {
	var want map[string]string
	for _, n := range []int{1, 2, 3, 7, 20, 0} {
		dir, r := write(t, synth.Options{Config: []byte(tinyConfig), Shards: n, Seed: 3})
		ix := open(t, dir)
		if files := max(n, 1); len(ix.Files) != files || r.Bytes == 0 {
			t.Errorf("asked for %d shards, got %d", n, len(ix.Files))
		}
		got := map[string]string{}
		perFile := make([]int64, len(ix.Files))
		for _, x := range ix.Tensors {
			data, err := os.ReadFile(filepath.Join(dir, ix.Files[x.File].Name))
			if err != nil {
				t.Fatal(err)
			}
			got[x.Name] = string(data[x.Offset : x.Offset+x.Bytes])
			perFile[x.File] += x.Bytes
		}
		if want == nil {
			want = got
		}
		if !maps.Equal(got, want) {
			t.Errorf("%d shards changed the bytes of tensors", n)
		}
		if slices.Contains(perFile, 0) {
			t.Errorf("%d shards: bytes per file %v", n, perFile)
		}
	}
}

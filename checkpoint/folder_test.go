package checkpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tensors describes a file to write: names and shapes, all U8.
type tensors map[string][]int64

func writeFile(t testing.TB, path string, ts tensors) {
	t.Helper()
	var list []safetensors.Tensor
	for name, shape := range ts {
		list = append(list, safetensors.Tensor{Name: name, DType: dtype.U8, Shape: shape})
	}
	w, err := safetensors.Create(path, list, nil)
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeText(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	indexName = "model.safetensors.index.json"
	twoShards = `{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}`
)

// TestFolders gives each broken or odd folder its class and names the place.
func TestFolders(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]tensors
		texts map[string]string
		entry string
		want  recovery.Class
		says  string
	}{
		"one file":                  {files: map[string]tensors{"model.safetensors": {"a": {1}}}},
		"one file, named otherwise": {files: map[string]tensors{"weights.safetensors": {"a": {1}}}},
		"two shards":                {files: map[string]tensors{"1.safetensors": {"a": {1}}, "2.safetensors": {"b": {2}}, "other.safetensors": {"a": {9}}}, texts: map[string]string{indexName: twoShards}},
		"two shards, from here":     {files: map[string]tensors{"1.safetensors": {"a": {1}, "c": {1}}, "sub/2.safetensors": {"b": {2}}}, texts: map[string]string{indexName: `{"weight_map": {"a": "./1.safetensors", "b": "./sub//2.safetensors", "c": "1.safetensors"}}`}},
		"one shard, named":          {files: map[string]tensors{"1.safetensors": {"a": {1}}, "2.safetensors": {"b": {2}}}, entry: "1.safetensors"},
		"an empty file's folder":    {want: recovery.NotFound, says: "no checkpoint"},
		"two and no index":          {files: map[string]tensors{"1.safetensors": {"a": {1}}, "2.safetensors": {"b": {2}}}, want: recovery.InvalidCheckpoint, says: "no one index"},
		"gguf beside safetensors":   {files: map[string]tensors{"model.safetensors": {"a": {1}}}, texts: map[string]string{"model.gguf": "GGUF"}},
		"gguf cut short":            {texts: map[string]string{"model.gguf": "GGUF"}, want: recovery.InvalidCheckpoint, says: "truncated"},
		"pytorch":                   {texts: map[string]string{"pytorch_model.bin": ""}, want: recovery.Unsupported, says: "not supported in this version"},
		"pytorch entry":             {texts: map[string]string{"model.pth": ""}, entry: "model.pth", want: recovery.Unsupported, says: "model.pth"},
		"onnx cut short":            {texts: map[string]string{"model.onnx": ""}, want: recovery.InvalidCheckpoint, says: "model.onnx"},
		"two onnx models":           {texts: map[string]string{"a.onnx": "", "b.onnx": ""}, want: recovery.InvalidCheckpoint, says: "2 ONNX models"},
		"onnx beside safetensors":   {files: map[string]tensors{"model.safetensors": {"a": {1}}}, texts: map[string]string{"model.onnx": ""}},
		"some entry":                {texts: map[string]string{"notes.txt": ""}, entry: "notes.txt", want: recovery.Unsupported, says: "not a checkpoint"},
		"no bytes":                  {texts: map[string]string{"model.safetensors": ""}, want: recovery.InvalidCheckpoint, says: "truncated"},
		"shard missing":             {files: map[string]tensors{"1.safetensors": {"a": {1}}}, texts: map[string]string{indexName: twoShards}, want: recovery.InvalidCheckpoint, says: "2.safetensors"},
		"tensor missing":            {files: map[string]tensors{"1.safetensors": {"a": {1}}, "2.safetensors": {}}, texts: map[string]string{indexName: twoShards}, want: recovery.InvalidCheckpoint, says: `2.safetensors tensor "b"`},
		"tensor too many":           {files: map[string]tensors{"1.safetensors": {"a": {1}, "c": {1}}, "2.safetensors": {"b": {2}}}, texts: map[string]string{indexName: twoShards}, want: recovery.InvalidCheckpoint, says: `tensor "c"`},
		"tensor twice":              {files: map[string]tensors{"1.safetensors": {"a": {1}}, "2.safetensors": {"a": {1}, "b": {2}}}, texts: map[string]string{indexName: twoShards}, want: recovery.InvalidCheckpoint, says: `2.safetensors tensor "a"`},
		"tensors swapped":           {files: map[string]tensors{"1.safetensors": {"b": {1}}, "2.safetensors": {"a": {2}}}, texts: map[string]string{indexName: twoShards}, want: recovery.InvalidCheckpoint, says: "says that it is in"},
		"shard corrupt":             {files: map[string]tensors{"1.safetensors": {"a": {1}}}, texts: map[string]string{indexName: twoShards, "2.safetensors": "\x02\x00\x00\x00\x00\x00\x00\x00[]"}, want: recovery.InvalidCheckpoint, says: "2.safetensors bytes [8, 9)"},
		"index corrupt":             {texts: map[string]string{indexName: `{"weight_map": [}`}, want: recovery.InvalidCheckpoint, says: indexName},
		"config corrupt":            {files: map[string]tensors{"model.safetensors": {"a": {1}}}, texts: map[string]string{"config.json": `{"model_type": 5}`}, want: recovery.InvalidCheckpoint, says: "config.json"},
		"config huge":               {files: map[string]tensors{"model.safetensors": {"a": {1}}}, texts: map[string]string{"config.json": "{" + strings.Repeat(" ", 4<<20) + "}"}, want: recovery.InvalidCheckpoint, says: "at most 4194304"},
		"shard above":               {texts: map[string]string{indexName: `{"weight_map": {"a": "../x.safetensors"}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
		"shard absolute":            {texts: map[string]string{indexName: `{"weight_map": {"a": "/etc/passwd"}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
		"shard inside up":           {texts: map[string]string{indexName: `{"weight_map": {"a": "b/../c"}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
		"shard from here and up":    {texts: map[string]string{indexName: `{"weight_map": {"a": "./../x.safetensors"}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
		"shard, the folder":         {texts: map[string]string{indexName: `{"weight_map": {"a": "./"}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
		"shard unnamed":             {texts: map[string]string{indexName: `{"weight_map": {"a": ""}}`}, want: recovery.InvalidCheckpoint, says: "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for n, ts := range c.files {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(n)), 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(dir, n), ts)
			}
			for n, text := range c.texts {
				writeText(t, filepath.Join(dir, n), text)
			}
			_, err := open(t, filepath.Join(dir, c.entry))
			if recovery.ClassOf(err) != c.want {
				t.Fatalf("got %v, want class %q", err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%q is not one line that says %q", err, c.says)
			}
		})
	}
}

// TestLinkedShard refuses a shard that is a link out of the folder.
func TestLinkedShard(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "secret.safetensors"), tensors{"a": {1}})
	model := filepath.Join(dir, "model")
	if err := errors.Join(os.Mkdir(model, 0o700), os.Symlink("../secret.safetensors", filepath.Join(model, "1.safetensors"))); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(model, indexName), `{"weight_map": {"a": "1.safetensors"}}`)
	if _, err := open(t, model); recovery.ClassOf(err) != recovery.InvalidCheckpoint || !strings.Contains(err.Error(), "link") {
		t.Errorf("got %v", err)
	}
}

const tiny = `{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
	"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96}`

// TestConfig contradicts a good checkpoint's config.json in one field each.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	if _, err := synth.Write(context.Background(), dir, synth.Options{Config: []byte(tiny), Shards: 1}); err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal([]byte(tiny), &fields); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		value any
		want  recovery.Class
		name  string // the architecture's
	}{
		{"model_type", "llama", "", "llama"},
		{"model_type", "mistral", "", "mistral"},
		{"model_type", "qwen2", "", "qwen2"},
		{"model_type", "gemma", "", "gemma"},
		{"model_type", "granite", "", ""},
		{"model_type", nil, "", "llama"},
		{"head_dim", nil, "", "llama"},
		{"head_dim", 8, "", "llama"},
		{"head_dim", 16, recovery.InvalidCheckpoint, ""},
		{"hidden_size", 64, recovery.InvalidCheckpoint, ""},
		{"hidden_size", -32, recovery.InvalidCheckpoint, ""},
		{"hidden_size", 33, recovery.InvalidCheckpoint, ""},
		{"hidden_size", "32", recovery.InvalidCheckpoint, ""},
		{"hidden_size", 1e30, recovery.InvalidCheckpoint, ""},
		{"intermediate_size", 64, recovery.InvalidCheckpoint, ""},
		{"num_hidden_layers", 1, recovery.InvalidCheckpoint, ""},
		{"num_hidden_layers", 3, recovery.InvalidCheckpoint, ""},
		{"num_attention_heads", 8, recovery.InvalidCheckpoint, ""},
		{"num_attention_heads", 3, recovery.InvalidCheckpoint, ""},
		{"num_key_value_heads", 1, recovery.InvalidCheckpoint, ""},
		{"num_key_value_heads", 3, recovery.InvalidCheckpoint, ""},
		{"vocab_size", 95, recovery.InvalidCheckpoint, ""},
		{"quantization_config", map[string]any{"quant_method": "x"}, "", "llama"},
	} {
		changed := maps.Clone(fields)
		changed[c.field] = c.value
		text, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		writeText(t, filepath.Join(dir, "config.json"), string(text))
		ix, err := open(t, dir)
		if recovery.ClassOf(err) != c.want {
			t.Errorf("%s %v: got %v, want class %q", c.field, c.value, err, c.want)
		}
		if err == nil && ix.Architecture.Name != c.name {
			t.Errorf("%s %v: architecture %q, want %q", c.field, c.value, ix.Architecture.Name, c.name)
		}
	}
}

// TestWithoutConfig takes from shapes what they tell.
func TestWithoutConfig(t *testing.T) {
	dir := t.TempDir()
	if _, err := synth.Write(context.Background(), dir, synth.Options{Config: []byte(tiny), Shards: 2}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	ix, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	a := ix.Architecture
	a.Parameters = 0
	if want := (checkpoint.Architecture{Name: "llama", Layers: 2, Hidden: 32, Intermediate: 48, Vocab: 96}); a != want {
		t.Errorf("got %+v, want %+v", a, want)
	}
	// A shard alone lacks layers and the head, and is no error.
	if _, err := open(t, filepath.Join(dir, "model-00001-of-00002.safetensors")); err != nil {
		t.Error(err)
	}
}

// TestDigest changes with what a load would read, and with nothing else.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, ts tensors) string {
		writeFile(t, filepath.Join(dir, name), ts)
		ix, err := open(t, filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return ix.Digest()
	}
	a := write("a.safetensors", tensors{"x": {2, 3}})
	if len(a) != 32 || strings.ToLower(a) != a {
		t.Errorf("digest %q", a)
	}
	if b := write("b.safetensors", tensors{"x": {2, 3}}); a == b {
		t.Error("another file has the same digest")
	}
	writeText(t, filepath.Join(dir, "tokenizer.json"), "{}")
	if ix, err := open(t, filepath.Join(dir, "a.safetensors")); err != nil || ix.Digest() != a || len(ix.SideFiles) != 1 {
		t.Errorf("a side file changed the digest (%v)", err)
	}
	if again := write("a.safetensors", tensors{"x": {3, 2}}); a == again {
		t.Error("another shape has the same digest")
	}
}

// TestReadErrors passes on what the source says.
func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "1.safetensors"), tensors{"a": {1}})
	writeFile(t, filepath.Join(dir, "2.safetensors"), tensors{"b": {1}})
	writeText(t, filepath.Join(dir, indexName), twoShards)
	src, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, rules := range []string{"list * fail unavailable", "open *.json fail unavailable", "read *.json fail unavailable",
		"open 2.safetensors fail unavailable", "read 2.safetensors fail unavailable"} {
		f, err := source.ParseFaults(rules)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkpoint.Open(context.Background(), source.Inject(src, f)); recovery.ClassOf(err) != recovery.Unavailable {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

// TestHeadersOnly reads no tensor byte.
func TestHeadersOnly(t *testing.T) {
	dir := t.TempDir()
	r, err := synth.Write(context.Background(), dir, synth.Options{Bytes: 8 << 20, Shards: 3})
	if err != nil {
		t.Fatal(err)
	}
	src, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var c source.Counter
	if _, err := checkpoint.Open(context.Background(), source.Count(src, &c)); err != nil {
		t.Fatal(err)
	}
	if c.Bytes.Load() > r.Bytes/100 {
		t.Errorf("read %d bytes of a checkpoint of %d", c.Bytes.Load(), r.Bytes)
	}
}

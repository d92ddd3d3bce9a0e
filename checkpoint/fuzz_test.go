package checkpoint_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/alloctest"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// folder is a source in memory.
type folder map[string][]byte

func (folder) URI() string   { return "memory:" }
func (folder) Entry() string { return "" }
func (folder) Close() error  { return nil }

func (f folder) Files(context.Context) (files []source.File, err error) {
	for _, name := range []string{"config.json", indexName, "model.safetensors", "model.onnx"} {
		if b, ok := f[name]; ok {
			files = append(files, source.File{Name: name, Size: int64(len(b)), ID: "1"})
		}
	}
	return files, nil
}

func (f folder) Open(_ context.Context, name string) (source.Reader, error) {
	b, ok := f[name]
	switch {
	case !source.ValidName(name):
		return nil, recovery.Errorf(recovery.NotAllowed, "%q leaves the folder", name)
	case !ok:
		return nil, recovery.Errorf(recovery.NotFound, "%q is not there", name)
	}
	return memory{name, b}, nil
}

type memory struct {
	name string
	b    []byte
}

func (m memory) File() source.File { return source.File{Name: m.name, Size: int64(len(m.b)), ID: "1"} }
func (m memory) Close() error      { return nil }

func (m memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > int64(len(m.b)) || copy(p, m.b[off:]) < len(p) {
		return recovery.Errorf(recovery.SourceChanged, "no bytes [%d, %d)", off, off+int64(len(p)))
	}
	return nil
}

// checkOpen opens a folder: what is accepted lies in its files and survives
// JSON, what is refused is so in one line, and neither costs more memory than
// the files are worth.
func checkOpen(t *testing.T, f folder, size int) {
	var ix *checkpoint.Index
	var err error
	if n, over := alloctest.Over(uint64(memoryTimes*size+memoryFree), func() { ix, err = checkpoint.Open(context.Background(), f) }); over {
		t.Errorf("%d bytes allocated for files of %d", n, size)
	}
	if err != nil {
		if c := recovery.ClassOf(err); c != recovery.InvalidCheckpoint && c != recovery.Unsupported || strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("class %q: %v", c, err)
		}
		return
	}
	ix.About()
	for _, x := range ix.Tensors {
		if x.File < 0 || int(x.File) >= len(ix.Files) || x.Offset < 0 || x.Bytes < 0 || x.Bytes > ix.Files[x.File].Size-x.Offset {
			t.Errorf("%+v does not lie in its file", x)
		}
	}
	text, err := json.Marshal(ix)
	if err != nil {
		t.Fatal(err)
	}
	var back checkpoint.Index
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back.Digest() != ix.Digest() {
		t.Errorf("changed on its way through JSON: %s", cmp.Diff(*ix, back))
	}
}

// shard is a safetensors file of U8 tensors.
func shard(t testing.TB, ts ...safetensors.Tensor) []byte {
	for i := range ts {
		ts[i].DType = dtype.U8
	}
	_, head, size, err := safetensors.Layout(ts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(head, make([]byte, size-int64(len(head)))...)
}

// FuzzFolder opens sharded checkpoints with any index and any config.json.
func FuzzFolder(f *testing.F) {
	f.Add([]byte(twoShards), []byte(tiny))
	f.Add([]byte(`{"weight_map": {"a": "../1.safetensors"}}`), []byte(`{"base_model_tp_plan": {"a": "colwise"}}`))
	f.Add([]byte(`{"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}`), []byte(`{"quantization_config": {"bits": 4}, "text_config": {"dtype": "x"}}`))
	f.Add([]byte(`{"weight_map": {"model.layers.0.self_attn.q_proj.weight": "3.safetensors"}}`), []byte(tiny))
	one, two := shard(f, safetensors.Tensor{Name: "a", Shape: []int64{1}}), shard(f, safetensors.Tensor{Name: "b", Shape: []int64{2}})
	layer := shard(f, safetensors.Tensor{Name: "model.layers.0.self_attn.q_proj.weight", Shape: []int64{32, 32}})
	f.Fuzz(func(t *testing.T, index, config []byte) {
		files := folder{indexName: index, "config.json": config, "1.safetensors": one, "2.safetensors": two, "3.safetensors": layer}
		checkOpen(t, files, len(index)+len(config)+len(one)+len(two)+len(layer))
	})
}

// FuzzONNXFolder opens any ONNX model beside an external file.
func FuzzONNXFolder(f *testing.F) {
	f.Add([]byte("\b\n:\x00"))
	f.Add([]byte("\b\n:\x35*\x33\b\x04\x10\x02B\x01tj\r\n\blocation\x12\x01wj\v\n\x06offset\x12\x010j\v\n\x06length\x12\x014p\x01"))
	f.Fuzz(func(t *testing.T, model []byte) {
		checkOpen(t, folder{"model.onnx": model, "w": make([]byte, 100)}, len(model))
	})
}

package checkpoint_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/internal/alloctest"
	"github.com/gantry-ml/gantry/internal/invariants"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// What indexing may allocate in all, kept or not: so many times the headers,
// and a little for small ones.
const (
	memoryTimes = 4
	memoryFree  = 1 << 20
)

// headers is a checkpoint in memory whose tensors' bytes are not stored.
type headers struct {
	files folder
	data  int64  // bytes behind each file's header
	fill  string // that the data is, over and over; zeros where it is empty
}

// of returns a checkpoint of files with so many zeros behind each header.
func of(files folder, data int64) headers { return headers{files: files, data: data} }

func (headers) URI() string   { return "memory:" }
func (headers) Entry() string { return "" }
func (headers) Close() error  { return nil }

func (h headers) Files(context.Context) (files []source.File, err error) {
	for name, b := range h.files {
		files = append(files, source.File{Name: name, Size: int64(len(b)) + h.behind(name), ID: "1"})
	}
	return files, nil
}

func (h headers) behind(name string) int64 {
	if strings.HasSuffix(name, ".json") {
		return 0
	}
	return h.data
}

func (h headers) Open(ctx context.Context, name string) (source.Reader, error) {
	r, err := h.files.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return headed{r.(memory), h.behind(name), h.fill}, nil
}

type headed struct {
	memory
	behind int64
	fill   string
}

func (h headed) File() source.File {
	f := h.memory.File()
	f.Size += h.behind
	return f
}

func (h headed) ReadAt(_ context.Context, p []byte, off int64) error {
	n := copy(p, h.b[min(off, int64(len(h.b))):])
	clear(p[n:])
	for i := n; i < len(p) && h.fill != ""; i++ {
		p[i] = h.fill[(off+int64(i)-int64(len(h.b)))%int64(len(h.fill))]
	}
	return nil
}

// size returns the bytes of all headers.
func (h headers) size() (n int64) {
	for _, b := range h.files {
		n += int64(len(b))
	}
	return n
}

// st returns a safetensors file of a header's text.
func st(text string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
}

// each joins n texts.
func each(n int, separator string, text func(i int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(text(i))
	}
	return b.String()
}

// many returns n things.
func many[T any](n int, thing func(i int) T) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = thing(i)
	}
	return list
}

// short returns a name of three letters or so, another for each number.
func short(i int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	return string([]byte{letters[i&63], letters[i>>6&63], letters[i>>12&63]})
}

const most = 1 << 18 // tensors of one file

// memoryKinds are headers of models as people have them, and of the kinds that
// cost the most for their size.
var memoryKinds = []struct {
	name    string
	refused bool // as unsupported or invalid: the description of each thing is shorter than any real one
	make    func() headers
}{
	{"safetensors: 100,000 experts", false, func() headers {
		head, size := manyTensors(100_000)
		return of(folder{"model.safetensors": head}, size-int64(len(head)))
	}},
	{"safetensors: 64 shards of 1,000 tensors", false, func() headers {
		h := of(folder{}, 0)
		var index []string
		for s := range 64 {
			name := fmt.Sprintf("model-%05d-of-00064.safetensors", s+1)
			tensor := func(i int) string { return fmt.Sprintf("model.layers.%d.mlp.experts.%d.gate_proj.weight", s, i) }
			h.files[name] = st("{" + each(1000, ",", func(i int) string {
				return fmt.Sprintf(`"%s":{"dtype":"BF16","shape":[0,4096],"data_offsets":[0,0]}`, tensor(i))
			}) + "}")
			index = append(index, each(1000, ",", func(i int) string { return fmt.Sprintf(`"%s":"%s"`, tensor(i), name) }))
		}
		h.files[indexName] = []byte(`{"weight_map":{` + strings.Join(index, ",") + "}}")
		return h
	}},
	{"safetensors: terse", true, func() headers {
		return of(folder{"model.safetensors": st("{" + each(most, ",", func(i int) string { return `"` + short(i) + `":["U8",[0],[0,0]]` }) + "}")}, 0)
	}},
	{"safetensors: terse, few", false, func() headers {
		return of(folder{"model.safetensors": st("{" + each(2000, ",", func(i int) string { return `"` + short(i) + `":["U8",[0],[0,0]]` }) + "}")}, 0)
	}},
	{"safetensors: the shortest that its writer makes", false, func() headers {
		return of(folder{"model.safetensors": st("{" + each(most, ",", func(i int) string {
			return fmt.Sprintf(`"%s":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, short(i), i, i+1)
		}) + "}")}, most)
	}},
	{"safetensors: one name", true, func() headers {
		return of(folder{"model.safetensors": st("{" + each(100_000, ",", func(int) string {
			return `"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`
		}) + "}")}, 0)
	}},
	{"safetensors: 64 dimensions", true, func() headers {
		return of(folder{"model.safetensors": st("{" + each(50_000, ",", func(i int) string {
			return `"` + short(i) + `":["U8",[0` + strings.Repeat(",1", 63) + `],[0,0]]`
		}) + "}")}, 0)
	}},
	{"safetensors: metadata", true, func() headers {
		return of(folder{"model.safetensors": st(`{"__metadata__":{` + each(1<<16, ",", func(i int) string { return `"` + short(i) + `":""` }) + "}}")}, 0)
	}},
	{"safetensors: metadata of brackets and escapes", false, func() headers {
		return of(folder{"model.safetensors": st(`{"__metadata__":{"a":"` + strings.Repeat(`[[a\n`, 1<<19) + `"}}`)}, 0)
	}},
	{"safetensors: layers", false, func() headers {
		return of(folder{"model.safetensors": st("{" + each(100_000, ",", func(i int) string {
			return fmt.Sprintf(`"model.layers.%d.a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`, i)
		}) + "}")}, 0)
	}},
	{"safetensors: FP8 with scales", false, func() headers {
		return of(folder{"config.json": []byte(`{"quantization_config":{"quant_method":"fp8","weight_block_size":[1,1]}}`),
			"model.safetensors": st("{" + each(100_000, ",", func(i int) string {
				return fmt.Sprintf(`"%s.weight":{"dtype":"F8_E4M3","shape":[1,1],"data_offsets":[%d,%d]},"%s.weight_scale_inv":{"dtype":"F32","shape":[1,1],"data_offsets":[%d,%d]}`,
					short(i), 5*i, 5*i+1, short(i), 5*i+1, 5*i+5)
			}) + "}")}, 500_000)
	}},
	{"safetensors: FP8 with scales, each of another shape", true, func() headers {
		return of(folder{"config.json": []byte(`{"quantization_config":{"quant_method":"fp8","weight_block_size":[1,1]}}`),
			"model.safetensors": st("{" + each(4096, ",", func(i int) string {
				begin := 5 * i * (i + 1) / 2
				return fmt.Sprintf(`"%s.weight":{"dtype":"F8_E4M3","shape":[1,%d],"data_offsets":[%d,%d]},"%s.weight_scale_inv":{"dtype":"F32","shape":[1,%d],"data_offsets":[%d,%d]}`,
					short(i), i+1, begin, begin+i+1, short(i), i+1, begin+i+1, begin+5*(i+1))
			}) + "}")}, 5*4096*4097/2)
	}},
	{"safetensors: bitsandbytes", false, func() headers {
		const state = `{"shape":[1,2],"blocksize":2}`
		return headers{folder{"config.json": []byte(`{"quantization_config":{"quant_method":"bitsandbytes"}}`),
			"model.safetensors": st("{" + each(20_000, ",", func(i int) string {
				begin := (69 + len(state)) * i
				return fmt.Sprintf(`"%[1]s.weight":{"dtype":"U8","shape":[1],"data_offsets":[%[3]d,%[4]d]},"%[1]s.weight.absmax":{"dtype":"F32","shape":[1],"data_offsets":[%[4]d,%[5]d]},"%[1]s.weight.quant_map":{"dtype":"F32","shape":[16],"data_offsets":[%[5]d,%[6]d]},"%[1]s.weight.quant_state.bitsandbytes__nf4":{"dtype":"U8","shape":[29],"data_offsets":[%[2]d,%[3]d]}`,
					short(i), begin, begin+len(state), begin+len(state)+1, begin+len(state)+5, begin+len(state)+69)
			}) + "}")}, 20_000 * int64(69+len(state)), state + strings.Repeat(" ", 69)}
	}},
	{"safetensors: GPTQ", false, func() headers {
		return of(folder{"config.json": []byte(`{"quantization_config":{"quant_method":"gptq","bits":8,"group_size":4}}`),
			"model.safetensors": st("{" + each(20_000, ",", func(i int) string {
				return fmt.Sprintf(`"%[1]s.qweight":{"dtype":"I32","shape":[1,4],"data_offsets":[%[2]d,%[3]d]},"%[1]s.qzeros":{"dtype":"I32","shape":[1,1],"data_offsets":[%[3]d,%[4]d]},"%[1]s.scales":{"dtype":"F16","shape":[1,4],"data_offsets":[%[4]d,%[5]d]}`,
					short(i), 28*i, 28*i+16, 28*i+20, 28*i+28)
			}) + "}")}, 28*20_000)
	}},
	{"safetensors: two shards of the shortest", false, func() headers {
		shard := func(first int) []byte {
			return st("{" + each(most/2, ",", func(i int) string {
				return fmt.Sprintf(`"%s":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, short(first+i), i, i+1)
			}) + "}")
		}
		return of(folder{"a": shard(0), "b": shard(most / 2),
			indexName: []byte(`{"weight_map":{` + each(most, ",", func(i int) string { return `"` + short(i) + `":"` + []string{"a", "b"}[2*i/most] + `"` }) + "}}")}, most/2)
	}},
	{"config.json: a large one", false, func() headers {
		return of(folder{"config.json": []byte(`{"model_type":"llama","quantization_config":{"quant_method":"compressed-tensors","ignore":[` + each(10_000, ",", func(i int) string {
			return fmt.Sprintf(`"model.layers.%d.mlp.experts.%d.gate_proj"`, i/256, i%256)
		}) + "]}}"), "model.safetensors": st("{}")}, 0)
	}},
	{"config.json: groups", false, func() headers {
		return of(folder{"config.json": []byte(`{"quantization_config":{"config_groups":{` + each(most, ",", func(i int) string { return `"` + short(i) + `":{}` }) + "}}}"),
			"model.safetensors": st("{}")}, 0)
	}},
	{"config.json: a plan", true, func() headers {
		return of(folder{"config.json": []byte(`{"base_model_tp_plan":{` + each(most, ",", func(i int) string { return `"` + short(i) + `":""` }) + "}}"),
			"model.safetensors": st("{}")}, 0)
	}},
	{"safetensors: an index of short names", true, func() headers {
		return of(folder{indexName: []byte(`{"weight_map":{` + each(most, ",", func(i int) string { return `"` + short(i) + `":"a"` }) + "}}")}, 0)
	}},
	{"safetensors: an index of many shards", true, func() headers {
		return of(folder{indexName: []byte(`{"weight_map":{` + each(most, ",", func(i int) string { return `"` + short(i) + `":"` + short(i) + `"` }) + "}}")}, 0)
	}},
	{"GGUF: 150,000 tokens", false, func() headers { return of(folder{"model.gguf": manyTokens(150_000)}, 0) }},
	{"GGUF: 3,000 matrices without a vocabulary", false, func() headers {
		f := gguftest.File{Tensors: many(3000, func(i int) []byte { return gguftest.Tensor(fmt.Sprintf("blk.%d.attn_q.weight", i), 0, 0, 0, 4096) })}
		return of(folder{"model.gguf": f.Bytes()}, 0)
	}},
	{"GGUF: terse", true, func() headers {
		f := gguftest.File{Tensors: many(most, func(i int) []byte { return gguftest.Tensor(short(i), 0, uint64(32*i)) })}
		return of(folder{"model.gguf": f.Bytes()}, 32*most)
	}},
	{"GGUF: layers", true, func() headers {
		f := gguftest.File{Keys: [][]byte{gguftest.KV("general.architecture", "llama")},
			Tensors: many(100_000, func(i int) []byte { return gguftest.Tensor(fmt.Sprintf("blk.%d.attn_v.weight", i), 0, 0, 0) })}
		return of(folder{"model.gguf": f.Bytes()}, 0)
	}},
	{"GGUF: keys", true, func() headers {
		return of(folder{"model.gguf": gguftest.File{Keys: many(1<<16, func(i int) []byte { return gguftest.KV(short(i), uint8(255)) })}.Bytes()}, 0)
	}},
	{"GGUF: lists", true, func() headers {
		return of(folder{"model.gguf": gguftest.File{Keys: many(1<<16, func(i int) []byte { return gguftest.KV(short(i), make([]bool, 16)) })}.Bytes()}, 0)
	}},
	{"GGUF: a text that is not UTF-8", false, func() headers {
		return of(folder{"model.gguf": gguftest.File{Keys: [][]byte{gguftest.KV("a", strings.Repeat("a\xff", 1<<16))}}.Bytes()}, 0)
	}},
	{"GGUF: texts that are not UTF-8", true, func() headers {
		return of(folder{"model.gguf": gguftest.File{Keys: many(64, func(i int) []byte { return gguftest.KV(short(i), strings.Repeat("a\xff", 1<<18)) })}.Bytes()}, 0)
	}},
	{"ONNX: 14,000 weights", false, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(
			many(14_000, func(i int) onnxtest.Message {
				return onnxtest.Tensor(fmt.Sprintf("model.layers.%d.mlp.up_proj.weight", i), 10, 0, 4096).External("model.onnx_data", 0, 0)
			}),
			many(14_000, func(i int) onnxtest.Message {
				return onnxtest.Node("MatMul", fmt.Sprintf("/model/layers.%d/mlp/up_proj/MatMul_output_0", i), fmt.Sprintf("/model/layers.%d/norm/Mul_output_0", i), fmt.Sprintf("model.layers.%d.mlp.up_proj.weight", i))
			})...)), "model.onnx_data": nil}, 0)
	}},
	{"ONNX: 20,000 constants", false, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(nil, many(40_000, func(i int) onnxtest.Message {
			name := fmt.Sprintf("/model/layers.0/self_attn/Constant_%d_output_0", i)
			if i%2 == 0 {
				return onnxtest.Constant(name, onnxtest.Tensor("", 7, 0))
			}
			return onnxtest.Node("Gather", fmt.Sprintf("/model/layers.0/self_attn/Gather_%d_output_0", i), "/model/layers.0/self_attn/Shape_output_0", name)
		})...))}, 0)
	}},
	{"ONNX: terse", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(many(most, func(i int) onnxtest.Message { return onnxtest.Tensor(short(i), 1, 0) })))}, 0)
	}},
	{"ONNX: terse constants", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(nil, many(most, func(i int) onnxtest.Message { return onnxtest.Constant(short(i), onnxtest.Tensor("", 1, 0)) })...))}, 0)
	}},
	{"ONNX: 64 dimensions in bytes", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(many(50_000, func(i int) onnxtest.Message {
			return onnxtest.Tensor(short(i), 1).Bytes(1, make([]byte, 64))
		})))}, 0)
	}},
	{"ONNX: tensors that nobody keeps", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(nil, many(50_000, func(i int) onnxtest.Message {
			return onnxtest.Node("Add", "a").Bytes(5, onnxtest.Attribute("b", 5, onnxtest.Tensor(short(i), 1).Bytes(1, make([]byte, 64))))
		})...))}, 0)
	}},
	{"ONNX: products", false, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(nil, many(most, func(i int) onnxtest.Message { return onnxtest.Node("MatMul", "", "", "a") })...))}, 0)
	}},
	{"ONNX: coded lists", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(many(most, func(i int) onnxtest.Message { return onnxtest.Tensor(short(i), 7, 1).Varints(7, 1) })))}, 0)
	}},
	{"ONNX: one name in many graphs", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(nil, many(100_000, func(i int) onnxtest.Message {
			return onnxtest.Node("If", "a").Bytes(5, onnxtest.Attribute("b", 6, onnxtest.Graph([]onnxtest.Message{onnxtest.Tensor("a", 1, 0)})))
		})...))}, 0)
	}},
	{"ONNX: an external file each", true, func() headers {
		return of(folder{"model.onnx": onnxtest.Model(onnxtest.Graph(many(50_000, func(i int) onnxtest.Message { return onnxtest.Tensor(short(i), 1, 0).External(short(i), -1, -1) })))}, 0)
	}},
	{"ONNX: metadata", true, func() headers {
		m := onnxtest.Model(onnxtest.Graph(nil))
		for i := range 1 << 12 {
			m = m.Entry(14, short(i), "")
		}
		return of(folder{"model.onnx": m}, 0)
	}},
}

// experts is a GGUF model of so many layers, each with one tensor of 4,096
// experts.
func experts(layers int) headers {
	f := gguftest.File{Keys: [][]byte{gguftest.KV("general.architecture", "qwen3moe"), gguftest.KV("qwen3moe.expert_count", uint32(4096))},
		Tensors: many(layers, func(i int) []byte {
			return gguftest.Tensor(fmt.Sprintf("blk.%d.ffn_gate_exps.weight", i), 0, uint64(4*4096*i), 1, 1, 4096)
		})}
	return of(folder{"model.gguf": f.Bytes()}, int64(4*4096*layers))
}

// TestMemoryOfExperts: a tensor that holds all experts becomes one for each,
// which the header does not pay for, but there is an end to it.
func TestMemoryOfExperts(t *testing.T) {
	h := experts(64)
	var ix *checkpoint.Index
	var err error
	all := int64(alloctest.Bytes(func() { ix, err = checkpoint.Open(context.Background(), h) }))
	if err != nil || len(ix.Tensors) != 64*4096 {
		t.Fatalf("%v", err)
	}
	each := (all - memoryFree) / int64(len(ix.Tensors))
	t.Logf("%d bytes for each of %d experts", each, len(ix.Tensors))
	if each > 160 {
		t.Errorf("%d bytes for each expert, at most 160 are allowed", each)
	}
	h = experts(65)
	all = int64(alloctest.Bytes(func() { _, err = checkpoint.Open(context.Background(), h) }))
	if recovery.ClassOf(err) != recovery.Unsupported || all > memoryFree {
		t.Errorf("%d bytes allocated: %v", all, err)
	}
}

// TestMemory holds all that indexing allocates to four times the headers and a
// mebibyte, whatever they say.
func TestMemory(t *testing.T) {
	for _, kind := range memoryKinds {
		h := kind.make()
		var err error
		all, size := int64(alloctest.Bytes(func() { _, err = checkpoint.Open(context.Background(), h) })), h.size()
		times := float64(max(all-memoryFree, 0)) / float64(size)
		t.Logf("%-50s %9d bytes, allocated %6.2f times as much, %5.2f beyond a mebibyte", kind.name, size, float64(all)/float64(size), times)
		if c := recovery.ClassOf(err); kind.refused != (err != nil) || err != nil && c != recovery.Unsupported && c != recovery.InvalidCheckpoint || len(fmt.Sprint(err)) > 500 {
			t.Errorf("%s: %v", kind.name, err)
		}
		limit := float64(memoryTimes)
		if invariants.Enabled {
			limit++ // the race detector has each short string take a slot of its own
		}
		if times > limit {
			t.Errorf("%s: %.2f times the header beyond a mebibyte, at most %v is allowed", kind.name, times, limit)
		}
	}
}

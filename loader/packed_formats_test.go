package loader

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
)

// packedFolder is a Hugging Face folder of one Llama layer whose linear weights
// are quantized, written from a format's published definition, and what the
// definition says that the weights are.
type packedFolder struct {
	names   []string
	tensors map[string]safetensors.Tensor
	data    map[string][]byte
	want    map[string][]float32
	weights map[string][2]int // rows and columns
	model   string            // model_type
	r       *rand.Rand
}

func newPackedFolder(seed uint64) *packedFolder {
	f := &packedFolder{weights: packedWeights, model: "llama", tensors: map[string]safetensors.Tensor{}, data: map[string][]byte{}, want: map[string][]float32{}, r: rand.New(rand.NewPCG(seed, 7))}
	f.f32("model.embed_tokens.weight", f.floats(64*hidden, 1), 64, hidden)
	f.want["model.embed_tokens.weight"] = f.floatsOf("model.embed_tokens.weight")
	return f
}

// The layer: 8 heads of 32, 4 key-value heads.
const hidden, intermediate = 256, 512

// packedWeights are the layer's weights with their shapes: one of each rule.
var packedWeights = map[string][2]int{
	"model.layers.0.self_attn.q_proj": {hidden, hidden},
	"model.layers.0.self_attn.k_proj": {hidden / 2, hidden},
	"model.layers.0.mlp.up_proj":      {intermediate, hidden},
	"model.layers.0.mlp.down_proj":    {hidden, intermediate},
}

func (f *packedFolder) put(name string, d dtype.Type, b []byte, shape ...int64) {
	f.names = append(f.names, name)
	f.tensors[name], f.data[name] = safetensors.Tensor{Name: name, DType: d, Shape: shape}, b
}

func (f *packedFolder) f32(name string, x []float32, shape ...int64) {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	f.put(name, dtype.F32, b, shape...)
}

// f16 stores values as F16 and returns what they are there.
func (f *packedFolder) f16(name string, x []float32, shape ...int64) []float32 {
	var b []byte
	x = slices.Clone(x)
	for i, v := range x {
		h := dtype.F32ToF16(v)
		b, x[i] = binary.LittleEndian.AppendUint16(b, h), dtype.F16ToF32(h)
	}
	f.put(name, dtype.F16, b, shape...)
	return x
}

func (f *packedFolder) i32(name string, x []uint32, shape ...int64) {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	f.put(name, dtype.I32, b, shape...)
}

func (f *packedFolder) floatsOf(name string) []float32 {
	x := make([]float32, len(f.data[name])/4)
	quant.Decode(x, f.data[name], dtype.F32)
	return x
}

func (f *packedFolder) floats(n int, scale float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = (f.r.Float32() + 0.01) * scale
	}
	return x
}

// ints returns n numbers in [0, limit).
func (f *packedFolder) ints(n, limit int) []int {
	x := make([]int, n)
	for i := range x {
		x[i] = f.r.IntN(limit)
	}
	return x
}

func (f *packedFolder) write(t testing.TB, config string) string {
	t.Helper()
	dir := t.TempDir()
	var list []safetensors.Tensor
	for _, n := range f.names {
		list = append(list, f.tensors[n])
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range f.names {
		if err := w.WriteTensor(i, f.data[n], 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	c := fmt.Sprintf(`{"model_type":%q,"hidden_size":%d,"intermediate_size":%d,"num_hidden_layers":1,"num_attention_heads":8,
		"num_key_value_heads":4,"vocab_size":64,"quantization_config":%s}`, f.model, hidden, intermediate, config)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// each calls f for the weights in one order.
func (p *packedFolder) eachWeight(f func(base string, out, in int)) {
	var names []string
	for n := range p.weights {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f(n, p.weights[n][0], p.weights[n][1])
	}
}

// packedFormats write a folder each, and its quantization_config.
var packedFormats = map[string]func(f *packedFolder) (config string){
	// A scale for each row, by its largest magnitude: x = q × scale.
	"int-quantized": func(f *packedFolder) string {
		f.eachWeight(func(base string, out, in int) {
			q, scale := make([]byte, out*in), f.f16(base+".weight_scale", f.floats(out, 0.01), int64(out), 1)
			x := make([]float32, out*in)
			for i := range q {
				q[i] = byte(f.r.Uint32())
				x[i] = float32(int8(q[i])) * scale[i/in]
			}
			f.put(base+".weight", dtype.I8, q, int64(out), int64(in))
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"int","strategy":"channel"}}}}`
	},
	// One F32 for the tensor: x = q × scale.
	"float-quantized": func(f *packedFolder) string {
		f.eachWeight(func(base string, out, in int) {
			q, scale := make([]byte, out*in), f.floats(1, 0.01)
			f.f32(base+".weight_scale", scale, 1)
			x := make([]float32, out*in)
			for i := range q {
				q[i] = byte(f.r.Uint32()) &^ 0x08 // no NaN
				x[i] = dtype.F8E4M3ToF32(q[i]) * scale[0]
			}
			f.put(base+".weight", dtype.F8E4M3, q, int64(out), int64(in))
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"float","strategy":"tensor"}}}}`
	},
	// 8 values in an int32, the first lowest, offset by 8; zero points packed
	// likewise along the rows.
	"pack-quantized":          func(f *packedFolder) string { return words(f, 32, 32) },
	"pack-quantized, by rows": func(f *packedFolder) string { return words(f, hidden, 0) },
	"pack-quantized, 3 bits":  func(f *packedFolder) string { return oddWords(f, 3, true) },
	"pack-quantized, 7 bits":  func(f *packedFolder) string { return oddWords(f, 7, true) },
	"pack-quantized, 5 bits":  func(f *packedFolder) string { return oddWords(f, 5, false) },
	"pack-quantized, mixed":   mixedWords,
	"float-quantized blocks":  floatBlocks,
	// Two E2M1 in a byte, the first lower; E4M3 for each 16; one F32 divides.
	"nvfp4": func(f *packedFolder) string {
		f.eachWeight(func(base string, out, in int) {
			q, scale, global := f.ints(out*in, 16), make([]byte, out*in/16), []float32{448 * 6 / 3.5}
			packed, x := make([]byte, out*in/2), make([]float32, out*in)
			for i := range scale {
				scale[i] = byte(1 + f.r.IntN(0x7d))
			}
			for i, v := range q {
				packed[i/2] |= byte(v) << (4 * (i % 2))
				x[i] = e2m1(v) * (dtype.F8E4M3ToF32(scale[i/16]) / global[0])
			}
			f.put(base+".weight_packed", dtype.U8, packed, int64(out), int64(in/2))
			f.put(base+".weight_scale", dtype.F8E4M3, scale, int64(out), int64(in/16))
			f.f32(base+".weight_global_scale", global, 1)
			f.f32(base+".input_global_scale", []float32{3}, 1)
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized","config_groups":{"group_0":{"weights":{"num_bits":4,"group_size":16,"type":"float"}}}}`
	},
	// A scale for each 128 × 128.
	"fp8 blocks": func(f *packedFolder) string {
		f.eachWeight(func(base string, out, in int) {
			q, scale := make([]byte, out*in), f.floats((out/128)*(in/128), 0.01)
			f.f32(base+".weight_scale_inv", scale, int64(out/128), int64(in/128))
			x := make([]float32, out*in)
			for i := range q {
				q[i] = byte(f.r.Uint32()) &^ 0x08
				x[i] = dtype.F8E4M3ToF32(q[i]) * scale[i/in/128*(in/128)+i%in/128]
			}
			f.put(base+".weight", dtype.F8E4M3, q, int64(out), int64(in))
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[128,128]}`
	},
	// The row's largest magnitude: x = q × SCB / 127.
	"bitsandbytes int8": func(f *packedFolder) string {
		f.eachWeight(func(base string, out, in int) {
			q, scb := make([]byte, out*in), f.floats(out, 2)
			f.f32(base+".SCB", scb, int64(out))
			f.put(base+".weight_format", dtype.U8, []byte{0})
			x := make([]float32, out*in)
			for i := range q {
				q[i] = byte(f.r.Uint32())
				x[i] = float32(float32(int8(q[i]))*scb[i/in]) * float32(7.874015718698502e-3)
			}
			f.put(base+".weight", dtype.I8, q, int64(out), int64(in))
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"bitsandbytes","load_in_8bit":true}`
	},
	"bitsandbytes nf4":        func(f *packedFolder) string { return nf4(f, false, dtype.U8) },
	"bitsandbytes nf4 nested": func(f *packedFolder) string { return nf4(f, true, dtype.U8) },
	// The same bytes under another type: bnb_4bit_quant_storage.
	"bitsandbytes nf4 as bf16": func(f *packedFolder) string { return nf4(f, false, dtype.BF16) },
	"bitsandbytes nf4 as f32":  func(f *packedFolder) string { return nf4(f, true, dtype.F32) },
	// Packed along the inputs; zero points along the outputs, one less stored.
	"gptq":           func(f *packedFolder) string { return gptq(f, false) },
	"gptq act-order": func(f *packedFolder) string { return gptq(f, true) },
	"gptq, 3 bits":   gptq3,
	"awq gemv":       gemv,
	"fbgemm_fp8":     fbgemm,
	"modelopt FP8":   modeloptFP8,
	"modelopt NVFP4": modeloptNVFP4,
	// Packed along the outputs, in the order 0 2 4 6 1 3 5 7.
	"awq": func(f *packedFolder) string {
		const group = 64
		order := [8]int{0, 2, 4, 6, 1, 3, 5, 7}
		f.eachWeight(func(base string, out, in int) {
			q, zeros := f.ints(out*in, 16), f.ints(out*in/group, 16) // [in, out], [in/group, out]
			pack := func(x []int, rows int) []uint32 {
				words := make([]uint32, rows*out/8)
				for k := range rows {
					for w := range out / 8 {
						for i, o := range order {
							words[k*(out/8)+w] |= uint32(x[k*out+8*w+o]) << (4 * i)
						}
					}
				}
				return words
			}
			f.i32(base+".qweight", pack(q, in), int64(in), int64(out/8))
			f.i32(base+".qzeros", pack(zeros, in/group), int64(in/group), int64(out/8))
			scale := f.f16(base+".scales", f.floats(out*in/group, 0.1), int64(in/group), int64(out))
			x := make([]float32, out*in)
			for k := range in {
				for o := range out {
					x[o*in+k] = float32(q[k*out+o]-zeros[k/group*out+o]) * scale[k/group*out+o]
				}
			}
			f.want[base+".weight"] = x
		})
		return `{"quant_method":"awq","version":"gemm","bits":4,"group_size":64,"zero_point":true}`
	},
}

// e2m1 is FP4 by its definition: sign, two bits of exponent with bias 1, one
// of fraction.
func e2m1(b int) float32 {
	v := float32(b&1) / 2 // denormal
	if e := b >> 1 & 3; e > 0 {
		v = (1 + v) * float32(int(1)<<(e-1))
	}
	if b&8 != 0 {
		return -v
	}
	return v
}

func nf4(f *packedFolder, nested bool, storage dtype.Type) string {
	const block, nestedBlock = 64, 256
	f.eachWeight(func(base string, out, in int) {
		name, n := base+".weight", out*in
		q, table := f.ints(n, 16), f.floats(16, 1)
		packed, x := make([]byte, n/2), make([]float32, n)
		state := map[string]any{"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": []int{out, in}}
		absmax := f.floats(n/block, 0.5)
		if nested {
			const offset = 0.0625
			nestedMax, nestedTable := f.floats((n/block+nestedBlock-1)/nestedBlock, 0.3), f.floats(256, 1)
			codes := make([]byte, n/block)
			for i := range codes {
				codes[i] = byte(f.r.Uint32())
				absmax[i] = float32(nestedTable[codes[i]]*nestedMax[i/nestedBlock]) + offset
			}
			f.put(name+".absmax", dtype.U8, codes, int64(len(codes)))
			f.f32(name+".nested_absmax", nestedMax, int64(len(nestedMax)))
			f.f32(name+".nested_quant_map", nestedTable, 256)
			state["nested_blocksize"], state["nested_offset"], state["nested_dtype"] = nestedBlock, offset, "float32"
		} else {
			f.f32(name+".absmax", absmax, int64(len(absmax)))
		}
		for i, v := range q {
			packed[i/2] |= byte(v) << (4 - 4*(i%2)) // the first is upper
			x[i] = table[v] * absmax[i/block]
		}
		f.put(name, storage, packed, int64(n/2/storage.Size()), 1)
		f.f32(name+".quant_map", table, 16)
		b, err := json.Marshal(state)
		if err != nil {
			panic(err) // a map of numbers and texts
		}
		f.put(name+".quant_state.bitsandbytes__nf4", dtype.U8, b, int64(len(b)))
		f.want[name] = x
	})
	return `{"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4"}`
}

func gptq(f *packedFolder, order bool) string {
	const group = 32
	f.eachWeight(func(base string, out, in int) {
		q, zeros := f.ints(in*out, 16), f.ints(in/group*out, 16) // [in, out]; zeros are 1 to 16
		words, zeroWords := make([]uint32, in/8*out), make([]uint32, in/group*out/8)
		for i, v := range q {
			k, o := i/out, i%out
			words[k/8*out+o] |= uint32(v) << (4 * (k % 8))
		}
		for i, v := range zeros {
			zeroWords[i/8] |= uint32(v) << (4 * (i % 8))
		}
		scale := f.f16(base+".scales", f.floats(in/group*out, 0.1), int64(in/group), int64(out))
		index := make([]uint32, in)
		for k := range index {
			index[k] = uint32(k / group)
		}
		if order {
			f.r.Shuffle(in, func(i, j int) { index[i], index[j] = index[j], index[i] })
		}
		f.i32(base+".qweight", words, int64(in/8), int64(out))
		f.i32(base+".qzeros", zeroWords, int64(in/group), int64(out/8))
		if order {
			f.i32(base+".g_idx", index, int64(in))
		}
		x := make([]float32, out*in)
		for k := range in {
			for o := range out {
				g := int(index[k])*out + o
				x[o*in+k] = float32(q[k*out+o]-(zeros[g]+1)) * scale[g]
			}
		}
		f.want[base+".weight"] = x
	})
	return fmt.Sprintf(`{"quant_method":"gptq","bits":4,"group_size":32,"desc_act":%v,"sym":false}`, order)
}

// words is pack-quantized with a scale for each group; said is what config.json
// says of the group.
func words(f *packedFolder, group, said int) string {
	f.eachWeight(func(base string, out, in int) {
		q, zeros := f.ints(out*in, 16), f.ints(out*in/group, 16)
		scale := f.f16(base+".weight_scale", f.floats(out*in/group, 0.1), int64(out), int64(in/group))
		words, zeroWords := make([]uint32, out*in/8), make([]uint32, out*in/group/8)
		x := make([]float32, out*in)
		for i, v := range q {
			row, g := i/in, i%in/group
			words[i/8] |= uint32(v) << (4 * (i % 8))
			zero := zeros[row*(in/group)+g]
			if i%group == 0 {
				zeroWords[row/8*(in/group)+g] |= uint32(zero) << (4 * (row % 8))
			}
			x[i] = float32((v-8)-(zero-8)) * scale[row*(in/group)+g]
		}
		f.i32(base+".weight_packed", words, int64(out), int64(in/8))
		f.i32(base+".weight_zero_point", zeroWords, int64(out/8), int64(in/group))
		f.put(base+".weight_shape", dtype.I64, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(out)), uint64(in)), 2)
		f.want[base+".weight"] = x
	})
	return fmt.Sprintf(`{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"weights":{"num_bits":4,"group_size":%d,"type":"int","symmetric":false}}}}`, said)
}

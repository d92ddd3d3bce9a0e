package loader

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/gantry-ml/gantry/dtype"
)

// Formats of single makers, as packedFormats has them.

// fbgemm is fbgemm_fp8: an F32 for each row, x = q × scale, and a bound of the
// activations' scale.
func fbgemm(f *packedFolder) string {
	f.eachWeight(func(base string, out, in int) {
		q, scale := make([]byte, out*in), f.floats(out, 0.01)
		f.f32(base+".weight_scale", scale, int64(out), 1)
		f.f32(base+".input_scale_ub", []float32{1200}, 1)
		x := make([]float32, out*in)
		for i := range q {
			q[i] = byte(f.r.Uint32()) &^ 0x08 // no NaN
			x[i] = dtype.F8E4M3ToF32(q[i]) * scale[i/in]
		}
		f.put(base+".weight", dtype.F8E4M3, q, int64(out), int64(in))
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"fbgemm_fp8","activation_scale_ub":1200.0,"modules_to_not_convert":["lm_head"]}`
}

// modeloptFP8 has one F32 for the weight, a scalar.
func modeloptFP8(f *packedFolder) string {
	f.eachWeight(func(base string, out, in int) {
		q, scale := make([]byte, out*in), f.floats(1, 0.01)
		f.f32(base+".weight_scale", scale)
		f.f32(base+".input_scale", []float32{0.5})
		x := make([]float32, out*in)
		for i := range q {
			q[i] = byte(f.r.Uint32()) &^ 0x08
			x[i] = dtype.F8E4M3ToF32(q[i]) * scale[0]
		}
		f.put(base+".weight", dtype.F8E4M3, q, int64(out), int64(in))
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"modelopt","quant_algo":"FP8","ignore":["lm_head"]}`
}

// modeloptNVFP4 has two E2M1 in a byte, the first lower; E4M3 for each 16; one
// F32, a scalar, multiplies. There is no negative zero.
func modeloptNVFP4(f *packedFolder) string {
	f.eachWeight(func(base string, out, in int) {
		q, scale, second := f.ints(out*in, 16), make([]byte, out*in/16), []float32{3.5 / 448 / 6}
		packed, x := make([]byte, out*in/2), make([]float32, out*in)
		for i := range scale {
			scale[i] = byte(1 + f.r.IntN(0x7d))
		}
		for i, v := range q {
			packed[i/2] |= byte(v) << (4 * (i % 2))
			if v != 8 {
				x[i] = e2m1(v) * (dtype.F8E4M3ToF32(scale[i/16]) * second[0])
			}
		}
		f.put(base+".weight", dtype.U8, packed, int64(out), int64(in/2))
		f.put(base+".weight_scale", dtype.F8E4M3, scale, int64(out), int64(in/16))
		f.f32(base+".weight_scale_2", second)
		f.f32(base+".input_scale", []float32{0.5})
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"modelopt","quant_algo":"NVFP4","ignore":["lm_head"]}`
}

// gptq3 packs 32 integers of 3 bits into three words: ten, and two bits of one;
// its third bit, ten, and one bit of one; its two others, and ten.
func gptq3(f *packedFolder) string {
	const group = 64
	words := func(x []uint32) (w [3]uint32) {
		for i, v := range x[:10] {
			w[0] |= v << (3 * i)
		}
		w[0] |= x[10] << 30
		w[1] |= x[10] >> 2
		for i, v := range x[11:21] {
			w[1] |= v << (3*i + 1)
		}
		w[1] |= x[21] << 31
		w[2] |= x[21] >> 1
		for i, v := range x[22:32] {
			w[2] |= v << (3*i + 2)
		}
		return w
	}
	f.eachWeight(func(base string, out, in int) {
		q, zeros := f.ints(in*out, 8), f.ints(in/group*out, 8) // [in, out]; zeros are 1 to 8
		qweight, qzeros := make([]uint32, in/32*3*out), make([]uint32, in/group*out/32*3)
		run := make([]uint32, 32)
		for k := 0; k < in; k += 32 {
			for o := range out {
				for i := range run {
					run[i] = uint32(q[(k+i)*out+o])
				}
				for i, w := range words(run) {
					qweight[(k/32*3+i)*out+o] = w
				}
			}
		}
		for at := 0; at < len(zeros); at += 32 {
			for i := range run {
				run[i] = uint32(zeros[at+i])
			}
			for i, w := range words(run) {
				qzeros[at/32*3+i] = w
			}
		}
		f.i32(base+".qweight", qweight, int64(in/32*3), int64(out))
		f.i32(base+".qzeros", qzeros, int64(in/group), int64(out/32*3))
		scale := f.f16(base+".scales", f.floats(in/group*out, 0.1), int64(in/group), int64(out))
		x := make([]float32, out*in)
		for k := range in {
			for o := range out {
				g := k/group*out + o
				x[o*in+k] = float32(q[k*out+o]-(zeros[g]+1)) * scale[g]
			}
		}
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"gptq","bits":3,"group_size":64,"desc_act":false,"sym":false}`
}

// gemv is AWQ's: packed along the inputs, zero points and scales along the
// groups, filled up to two words of zero points for groups of 64.
func gemv(f *packedFolder) string {
	const group = 64
	f.eachWeight(func(base string, out, in int) {
		groups := in / group
		width := ((groups+7)/8 + 1) / 2 * 2
		q, zeros := f.ints(out*in, 16), f.ints(out*groups, 16)
		packed, qzeros := make([]uint32, out*in/8), make([]uint32, out*width)
		for i, v := range q {
			packed[i/8] |= uint32(v) << (4 * (i % 8))
		}
		scales := make([]float32, out*width*8)
		for o := range out {
			for g := range groups {
				qzeros[o*width+g/8] |= uint32(zeros[o*groups+g]) << (4 * (g % 8))
				scales[o*width*8+g] = f.floats(1, 0.1)[0]
			}
		}
		f.i32(base+".qweight", packed, int64(out), int64(in/8))
		f.i32(base+".qzeros", qzeros, int64(out), int64(width))
		scales = f.f16(base+".scales", scales, int64(out), int64(width*8))
		x := make([]float32, out*in)
		for i, v := range q {
			o, g := i/in, i%in/group
			x[i] = float32(v-zeros[o*groups+g]) * scales[o*width*8+g]
		}
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"awq","version":"gemv","bits":4,"group_size":64,"zero_point":true}`
}

// oddWords is pack-quantized of bits that do not divide 32, asymmetric, in
// groups of 64: tight, one integer after the other from the lowest bits of the
// first word on; or as it was before, as many as a word has room for in each.
func oddWords(f *packedFolder, bits int, tight bool) string {
	const group = 64
	// pack returns the words of integers.
	pack := func(x []int) []uint32 {
		per := 32 / bits
		w := make([]uint32, (len(x)+per-1)/per)
		if tight {
			w = make([]uint32, (len(x)*bits+31)/32)
		}
		for i, v := range x {
			for b := range bits {
				at := i/per*32 + i%per*bits + b
				if tight {
					at = i*bits + b
				}
				w[at/32] |= uint32(v>>b&1) << (at % 32)
			}
		}
		return w
	}
	f.eachWeight(func(base string, out, in int) {
		groups := in / group
		q, zeros := f.ints(out*in, 1<<bits), f.ints(out*groups, 1<<bits)
		scale := f.f16(base+".weight_scale", f.floats(out*groups, 0.1), int64(out), int64(groups))
		var packed []uint32
		x := make([]float32, out*in)
		for r := range out {
			packed = append(packed, pack(q[r*in:(r+1)*in])...)
		}
		for i, v := range q {
			g := i/in*groups + i%in/group
			x[i] = float32(v-zeros[g]) * scale[g]
		}
		var zeroWords []uint32 // of a group, one after the other
		height := 0
		for g := range groups {
			column := make([]int, out)
			for r := range column {
				column[r] = zeros[r*groups+g]
			}
			w := pack(column)
			zeroWords, height = append(zeroWords, w...), len(w)
		}
		turned := make([]uint32, len(zeroWords))
		for i, w := range zeroWords {
			turned[i%height*groups+i/height] = w
		}
		f.i32(base+".weight_packed", packed, int64(out), int64(len(packed)/out))
		f.i32(base+".weight_zero_point", turned, int64(height), int64(groups))
		f.want[base+".weight"] = x
	})
	return fmt.Sprintf(`{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"weights":{"num_bits":%d,"group_size":64,"type":"int","symmetric":false}}}}`, bits)
}

// mixedWords has weights of 4 bits and of 8, as two groups of config_groups say.
func mixedWords(f *packedFolder) string {
	f.eachWeight(func(base string, out, in int) {
		bits := 4
		if strings.Contains(base, "mlp") {
			bits = 8
		}
		q, scale := f.ints(out*in, 1<<bits), f.f16(base+".weight_scale", f.floats(out*in/64, 0.1), int64(out), int64(in/64))
		words, x := make([]uint32, out*in*bits/32), make([]float32, out*in)
		for i, v := range q {
			words[i*bits/32] |= uint32(v) << (i * bits % 32)
			x[i] = float32(v-1<<(bits-1)) * scale[i/64]
		}
		f.i32(base+".weight_packed", words, int64(out), int64(in*bits/32))
		f.put(base+".weight_shape", dtype.I64, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(out)), uint64(in)), 2)
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{
		"group_0":{"targets":["re:.*attn.*"],"weights":{"num_bits":4,"group_size":64,"type":"int","symmetric":true}},
		"group_1":{"targets":["re:.*mlp.*"],"weights":{"num_bits":8,"group_size":64,"type":"int","symmetric":true}}}}`
}

// floatBlocks is float-quantized with a scale for each 64 × 128.
func floatBlocks(f *packedFolder) string {
	f.eachWeight(func(base string, out, in int) {
		q, scale := make([]byte, out*in), f.floats(out/64*(in/128), 0.01)
		f.f32(base+".weight_scale", scale, int64(out/64), int64(in/128))
		x := make([]float32, out*in)
		for i := range q {
			q[i] = byte(f.r.Uint32()) &^ 0x08 // no NaN
			x[i] = dtype.F8E4M3ToF32(q[i]) * scale[i/in/64*(in/128)+i%in/128]
		}
		f.put(base+".weight", dtype.F8E4M3, q, int64(out), int64(in))
		f.want[base+".weight"] = x
	})
	return `{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"float","strategy":"block","block_structure":[64,128]}}}}`
}

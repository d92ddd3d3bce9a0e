package loader

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// TestSharedBytes: ONNX tensors over the same external bytes, or over a part of
// another's, have each its own values, and each stored byte is read once,
// however the file is read and the tensors are cut and encoded.
func TestSharedBytes(t *testing.T) {
	const rows, cols = 384, 64
	dir := t.TempDir()
	values := make([]float32, rows*cols)
	raw := []byte{}
	for i := range values {
		values[i] = float32(i%251) - 125
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(values[i]))
	}
	tensors := map[string]struct{ row, rows, cols int64 }{
		"model.embed_tokens.weight":               {0, rows, cols},
		"lm_head.weight":                          {0, rows, cols},
		"model.layers.0.self_attn.q_proj.weight":  {128, 64, cols},
		"model.layers.0.mlp.up_proj.weight":       {64, 128, 2 * cols},
		"model.layers.0.input_layernorm.weight":   {5, 1, cols},
		"model.layers.0.self_attn.o_proj.weight":  {320, 64, cols},
		"model.layers.0.self_attn.rotary.inv_all": {0, 1, rows * cols},
	}
	var list []onnxtest.Message
	for name, x := range tensors {
		shape := []int64{x.rows, x.cols}
		if x.rows == 1 {
			shape = shape[1:]
		}
		list = append(list, onnxtest.Tensor(name, 1, shape...).External("w", x.row*cols*4, x.rows*x.cols*4))
	}
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Model(onnxtest.Graph(list)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "w"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"none", "int8", "bf16", "fp8_e4m3:scale=tensor"} {
		for _, mode := range []source.Mode{source.ModeAuto, source.ModePread} {
			for _, chunk := range []int64{shard.MaxChunkBytes, 64 << 10} {
				if scheme == "fp8_e4m3:scale=tensor" && chunk < int64(len(raw)) {
					continue // a tensor that is needed as a whole is read on its own
				}
				for _, tp := range []int{1, 4} {
					m := load(t, dir, WithLayout(shard.Layout{TP: tp}), WithQuantization(quant.Config{Scheme: scheme}), reading(mode), withChunks(chunk))
					if r := m.Report(); r.BytesRead != int64(len(raw)) || r.ReadAmplification() != 1 {
						t.Errorf("%s, %s, chunks of %d, tp %d: %d bytes of %d read, amplification %g", scheme, mode, chunk, tp, r.BytesRead, len(raw), r.ReadAmplification())
					}
					if scheme != "none" {
						continue
					}
					for name, x := range tensors {
						v, err := m.Vars().Tensor(name)
						if err != nil {
							t.Fatal(err)
						}
						got, err := v.Float32()
						if want := values[x.row*cols:][:x.rows*x.cols]; err != nil || !slices.Equal(got, want) {
							t.Errorf("%s, chunks of %d, tp %d: %s differs: %v", mode, chunk, tp, name, err)
						}
					}
				}
			}
		}
	}
}

// TestSharedBytesAreVerified: what two tensors lie over is checked for both.
func TestSharedBytesAreVerified(t *testing.T) {
	const rows, cols = 384, 64
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Model(onnxtest.Graph([]onnxtest.Message{
		onnxtest.Tensor("model.embed_tokens.weight", 1, rows, cols).External("w", 0, rows*cols*4),
		onnxtest.Tensor("lm_head.weight", 1, rows, cols).External("w", 0, rows*cols*4),
	})), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "w")
	if err := os.WriteFile(file, make([]byte, rows*cols*4), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := digests.WriteBeside(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, chunk := range []int64{shard.MaxChunkBytes, 64 << 10} {
		o := []Option{withChunks(chunk), WithLayout(shard.Layout{TP: 2})}
		if r := load(t, dir, o...).Report(); !r.SourceVerified || r.ReadAmplification() != 1 {
			t.Errorf("chunks of %d: verified %v, amplification %g", chunk, r.SourceVerified, r.ReadAmplification())
		}
		flip(t, file, rows*cols*4-1)
		_, err := New(o...).Load(t.Context(), dir)
		flip(t, file, rows*cols*4-1)
		if recovery.ClassOf(err) != recovery.DigestMismatch {
			t.Errorf("chunks of %d: a flipped bit: %v", chunk, err)
		}
	}
}

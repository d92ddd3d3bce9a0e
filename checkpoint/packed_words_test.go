package checkpoint_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
)

// TestWordsOfSeveralKinds: the columns and bits of weights of compressed-tensors
// whose numbers of words and scales would go with others too.
func TestWordsOfSeveralKinds(t *testing.T) {
	const short, long = 4, 8 // rows of both weights
	for _, c := range []struct {
		name                     string
		upCols, upBits, upGroup  int64
		outCols, outBits, outGrp int64
		targets                  [2]string // of up's bits and of out's
	}{
		{"4 bits by 128, 8 by 64", 256, 4, 128, 256, 8, 64, [2]string{"re:.*up$", "re:.*out$"}},
		{"8 bits by 32, 4 by 64", 256, 8, 32, 256, 4, 64, [2]string{"re:.*up$", "re:.*out$"}},
		{"4 bits by 128, 8 by rows", 256, 4, 128, 64, 8, 0, [2]string{"m.up", "m.out"}},
		{"7 and 8 bits in words of 4", 128, 7, 64, 128, 8, 64, [2]string{"m.up", "m.out"}},
		{"8 and 7, by patterns", 128, 8, 64, 128, 7, 64, [2]string{"re:m[.]up", "re:m[.](?:in|out)"}},
		{"7 and 8, one of a class", 128, 7, 64, 128, 8, 64, [2]string{"Linear", "re:.*out"}},
		{"short rows", 125, 4, 128, 121, 4, 128, [2]string{"Linear", "Linear"}},
		{"short rows of 2 bits", 60, 2, 64, 50, 2, 64, [2]string{"Linear", "Linear"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeWords(t, dir, map[string]wordsKind{"m.up": {short, c.upCols, c.upBits, c.upGroup}, "m.out": {long, c.outCols, c.outBits, c.outGrp}})
			group := func(target string, bits, size int64) string {
				return fmt.Sprintf(`{"targets":[%q],"weights":{"num_bits":%d,"group_size":%d,"type":"int"}}`, target, bits, size)
			}
			groups := `"group_0":` + group(c.targets[0], c.upBits, c.upGroup)
			if c.targets[1] != c.targets[0] {
				groups += `,"group_1":` + group(c.targets[1], c.outBits, c.outGrp)
			}
			writeText(t, filepath.Join(dir, "config.json"), `{"model_type":"novel","quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{`+groups+`}}}`)
			ix, err := open(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(ix.Packed) != 2 {
				t.Fatalf("%d weights: %+v", len(ix.Packed), ix.Packed)
			}
			for _, w := range ix.Packed {
				cols, bits := c.upCols, c.upBits
				if w.Name == "m.out.weight" {
					cols, bits = c.outCols, c.outBits
				}
				if w.Shape[1] != cols || !strings.Contains(w.Form, fmt.Sprintf("bits=%d,", bits)) {
					t.Errorf("%s is %v of %s, want %d columns of %d bits", w.Name, w.Shape, w.Form, cols, bits)
				}
			}
		})
	}
}

// wordsKind is a weight that is packed into words, as many integers in each as
// are whole.
type wordsKind struct{ rows, cols, bits, group int64 }

func writeWords(t *testing.T, dir string, weights map[string]wordsKind) {
	t.Helper()
	var list []safetensors.Tensor
	var data [][]byte
	for name, k := range weights {
		per, groups := 32/k.bits, int64(1)
		if k.group > 0 {
			groups = (k.cols + k.group - 1) / k.group
		}
		words := (k.cols + per - 1) / per
		list = append(list, safetensors.Tensor{Name: name + ".weight_packed", DType: dtype.I32, Shape: []int64{k.rows, words}},
			safetensors.Tensor{Name: name + ".weight_scale", DType: dtype.F16, Shape: []int64{k.rows, groups}},
			safetensors.Tensor{Name: name + ".weight_shape", DType: dtype.I64, Shape: []int64{2}})
		data = append(data, make([]byte, 4*k.rows*words), make([]byte, 2*k.rows*groups),
			binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(k.rows)), uint64(k.cols)))
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range data {
		if err := w.WriteTensor(i, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

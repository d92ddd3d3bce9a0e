package checkpoint

import (
	"encoding/json"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

func TestStandardJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"a": [0.0, Infinity]}`:                        `{"a": [0.0, 1e999]}`,
		`{"a":-Infinity,"b":NaN}`:                       `{"a":-1e999,"b":null}`,
		"[NaN,\n\tInfinity ]":                           "[null,\n\t1e999 ]",
		`Infinity`:                                      `1e999`,
		`{"Infinity": "NaN", "x\"NaN": "\\", "y": NaN}`: `{"Infinity": "NaN", "x\"NaN": "\\", "y": null}`,
		// Neither Python nor JSON has these.
		`[1Infinity]`: `[1Infinity]`,
		`[Infinity0]`: `[Infinity0]`,
		`[-NaN]`:      `[-NaN]`,
		`[+Infinity]`: `[+Infinity]`,
		`[nan, inf]`:  `[nan, inf]`,
		`["NaN`:       `["NaN`,
		`["NaN\`:      `["NaN\`,
		``:            ``,
	} {
		if got := string(StandardJSON([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A config.json, and a quantizer's file beside it, may say numbers in Python's
// words.
func TestPythonNumbers(t *testing.T) {
	dir := writeFolder(t, []safetensors.Tensor{{Name: "a", DType: dtype.F32, Shape: []int64{4}}}, map[string]string{
		configName:             `{"model_type": "mamba2", "time_step_limit": [0.0, Infinity], "low": -Infinity, "none": NaN, "word": "NaN"}`,
		"quantize_config.json": `{"bits": 4, "damp_percent": NaN}`,
	})
	ix, err := openFolder(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"low":-1e999,"model_type":"mamba2","none":null,"quantization_config":{"bits":4,"damp_percent":null,"quant_method":"gptq"},"time_step_limit":[0.0,1e999],"word":"NaN"}`
	if string(ix.Config) != want || ix.About().ModelType != "mamba2" {
		t.Errorf("config %s, want %s; model type %q", ix.Config, want, ix.About().ModelType)
	}
	if b, err := json.Marshal(ix); err != nil || len(b) == 0 {
		t.Errorf("the index as JSON: %v", err)
	}
	// No number of a model's is infinite.
	if _, err := ParseConfig([]byte(`{"model_type": "llama", "hidden_size": Infinity}`)); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
		t.Errorf("an infinite size: %v", err)
	}
}

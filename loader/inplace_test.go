package loader

import (
	"testing"

	checkpoints "github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// TestInPlaceStagesLess: rows that are cut after they are transformed go
// through staging one by one. The bytes are the same.
func TestInPlaceStagesLess(t *testing.T) {
	dir := t.TempDir()
	config := `{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 1,
		"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 64}`
	if _, err := checkpoints.Write(t.Context(), dir, checkpoints.Options{Config: []byte(config), DType: dtype.BF16}); err != nil {
		t.Fatal(err)
	}
	tp2 := WithLayout(shard.Layout{TP: 2})
	grouped := load(t, dir, tp2, WithQuantization(quant.Config{Scheme: "int8"}))
	single := load(t, dir, tp2, WithQuantization(quant.Config{Scheme: "int8", InPlace: true}))
	for i, r := range single.Ranks() {
		if r.Digest != grouped.Ranks()[i].Digest {
			t.Errorf("rank %d has other bytes in place", i)
		}
	}
	// The file is warm and so is mapped, and int8 is validated where it lies: all
	// that must be staged is what is cut. A row of o_proj takes 2052 bytes, a
	// group of them 256 KiB.
	a, b := grouped.Report().PeakStaging, single.Report().PeakStaging
	if a < scratchBytes || b == 0 || b > a/4 {
		t.Errorf("in place takes %d bytes of staging, otherwise %d", b, a)
	}
	t.Logf("peak staging %d bytes, in place %d", a, b)
}

package loader

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/testmodels"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

// TestFamilyLayouts: real loads of every family in every kind of layout, by
// nodes that send each other pieces, give the same bytes, and count the same
// values that are not finite, each once however many ranks hold it.
func TestFamilyLayouts(t *testing.T) {
	layouts := []shard.Layout{{}, {TP: 2}, {TP: 4, DP: 2}, {EP: 2}, {EP: 4, TP: 2}, {EP: 2, TP: 4, DP: 2}}
	for family, experts := range testmodels.Families() {
		dir := testmodels.Write(t, family, true)
		_, ix := open(t, dir)
		for _, scheme := range []string{"none", "f16", "int8", "q8_0", "q4_0"} {
			var first [][][]byte
			var count [2]dtype.NonFinite
			for i, l := range layouts {
				if l.EP > 1 && !experts {
					continue
				}
				what := fmt.Sprintf("%s as %s, %s", family, scheme, l)
				plan := build(t, ix, shard.Options{Layout: l, Scheme: scheme, ChunkBytes: shard.MinChunkBytes})
				if plan.ReadBytes != plan.StoredBytes {
					t.Errorf("%s: reads %d of %d", what, plan.ReadBytes, plan.StoredBytes)
				}
				m := newTeam(t, dir, plan, 3, NodeOptions{Staging: 2 << 20})
				var stored, placed dtype.NonFinite
				for r, s := range m.load(t.Context()) {
					if !s.Validation.Ran && s.Validation.Reason == "" {
						t.Errorf("%s, rank %d: %+v", what, r, s.Validation)
					}
					stored, placed = stored.Plus(s.Validation.Stored.Once), placed.Plus(s.Validation.Placed.Once)
				}
				if i == 0 {
					count = [2]dtype.NonFinite{stored, placed}
				}
				if n := int64(len(ix.Tensors)); stored != (dtype.NonFinite{NaN: n, Inf: n}) || count != [2]dtype.NonFinite{stored, placed} {
					t.Errorf("%s: stored %+v, placed %+v, want %+v", what, stored, placed, count)
				}
				for i := range plan.Tensors {
					joined := m.joined(i)
					if len(first) == i {
						first = append(first, joined)
					}
					for j := range joined {
						if !bytes.Equal(joined[j], first[i][j]) {
							t.Errorf("%s: %s differs", what, plan.Tensors[i].Name)
						}
					}
				}
			}
		}
	}
}

// TestPackedFused: fused projections that a quantizer packed are decoded
// exactly, part by part, whatever the layout, and stay as they are under none.
func TestPackedFused(t *testing.T) {
	for name, format := range packedFormats {
		f := newPackedFolder(4)
		f.model, f.weights = "phi3", map[string][2]int{"model.layers.0.self_attn.qkv_proj": {2 * hidden, hidden}, "model.layers.0.mlp.gate_up_proj": {2 * intermediate, hidden}}
		dir := f.write(t, format(f))
		for _, l := range []shard.Layout{{TP: 2}, {TP: 4}, {TP: 8}} {
			same(t, name+" as f32, "+l.String(), all(t, load(t, dir, WithLayout(l), WithQuantization(quant.Config{Scheme: "f32"}))), f.want)
			m := load(t, dir, WithLayout(l))
			for _, n := range f.names {
				w, err := m.Vars().Tensor(n)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := w.Bytes(); err != nil || !bytes.Equal(b, f.data[n]) {
					t.Errorf("%s, %s: %s is not what is stored: %v", name, l, n, err)
				}
			}
		}
	}
}

// TestPaddedVocabulary: the rows that fill a vocabulary up are zeros, in every
// scheme's encoding and under any name of the tensor; joining leaves them out.
func TestPaddedVocabulary(t *testing.T) {
	dir := testmodels.Write(t, "phi3", false)
	_, ix := open(t, dir)
	for _, scheme := range []string{"none", "q4_K_M", "q8_0"} {
		plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: scheme, PadVocab: 64})
		m := newTeam(t, dir, plan, 2, NodeOptions{Staging: 2 << 20})
		m.load(t.Context())
		padded := 0
		for r := range plan.Ranks {
			for _, s := range plan.Ranks[r].Slices {
				if s.Pad == 0 {
					continue
				}
				padded++
				if n := s.Rows.Len() + s.Pad; n != 32 { // 70 rows become 128
					t.Errorf("%s: rank %d has %d rows of %s", scheme, r, n, plan.Tensors[s.Tensor].Name)
				}
				for _, at := range s.Planes {
					b := make([]byte, s.Pad*at.RowBytes)
					if err := m.read(r, b, at.Offset+s.Rows.Len()*at.RowBytes); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(b, make([]byte, len(b))) {
						t.Errorf("%s: rank %d: %s is not filled up with zeros", scheme, r, plan.Tensors[s.Tensor].Name)
					}
				}
			}
		}
		if padded != 4 { // the third and fourth rank, of embedding and head
			t.Errorf("%s: %d slices are padded", scheme, padded)
		}
		plain := build(t, ix, shard.Options{Scheme: scheme})
		alone := newTeam(t, dir, plain, 1, NodeOptions{Staging: 2 << 20})
		alone.load(t.Context())
		for i := range plan.Tensors {
			for j, b := range alone.joined(i) {
				if !bytes.Equal(b, m.joined(i)[j]) {
					t.Errorf("%s: %s differs", scheme, plan.Tensors[i].Name)
				}
			}
		}
	}
}

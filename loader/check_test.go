package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// digested is synth's checkpoint with its digests.
func digested(t testing.TB, layers int) string {
	t.Helper()
	dir := synth(t, layers)
	if err := digests.WriteBeside(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// flip inverts a bit of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	if err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b[:], at)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// reading opens local files in a mode.
func reading(mode source.Mode) Option {
	return withOpen(func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
		return source.Open(ctx, uri, source.Options{Mode: mode})
	})
}

// TestFlippedBit: wherever a bit flips, in whatever way the file is read and
// the tensors are cut and encoded, the load is refused, and the error names
// file, tensor and a range around the bit.
func TestFlippedBit(t *testing.T) {
	dir := digested(t, 1)
	file := filepath.Join(dir, "model.safetensors")
	_, ix := open(t, dir)
	down := find(t, ix, "model.layers.0.mlp.down_proj.weight")
	norm := find(t, ix, "model.layers.0.input_layernorm.weight")
	places := map[string]int64{
		"first": down.Offset, "last": down.Offset + down.Bytes - 1, "middle": down.Offset + down.Bytes/2 + 12345, "small tensor": norm.Offset + 1,
	}
	for _, mode := range []source.Mode{source.ModePread, source.ModeMmap} {
		for _, scheme := range []string{"none", "q8_0"} {
			for _, chunk := range []int64{0, 1<<20 - 4096} { // the second cuts units
				opts := []Option{reading(mode), WithQuantization(quant.Config{Scheme: scheme}), WithLayout(shard.Layout{TP: 2})}
				if chunk > 0 {
					opts = append(opts, withChunks(chunk))
				}
				what := fmt.Sprintf("%s %s chunks of %d", mode, scheme, chunk)
				rep := load(t, dir, opts...).Report()
				if !rep.SourceVerified || chunk == 0 && rep.ReadAmplification() != 1 || rep.ReadAmplification() > 1.2 {
					t.Errorf("%s: verified %v, read amplification %g", what, rep.SourceVerified, rep.ReadAmplification())
				}
				for where, at := range places {
					flip(t, file, at)
					m, err := New(opts...).Load(t.Context(), dir)
					flip(t, file, at)
					var e *recovery.Error
					if err == nil {
						m.Close()
					}
					if !errors.As(err, &e) || e.Class != recovery.DigestMismatch {
						t.Errorf("%s, %s: %v", what, where, err)
						continue
					}
					name := down.Name
					if where == "small tensor" {
						name = norm.Name
					}
					if e.File != "model.safetensors" || e.Tensor != name || at < e.Offset || at >= e.Offset+e.Length || e.Length > 64<<10 {
						t.Errorf("%s, %s at %d: %v", what, where, at, err)
					}
				}
			}
		}
	}
	header := int64(20) // in a tensor's name or so: whatever it makes of the header, it is found
	flip(t, file, header)
	if m, err := New().Load(t.Context(), dir); err == nil {
		m.Close()
		t.Error("a flipped bit of the header is not found")
	}
}

// TestWrongBytesOnce: bytes that come wrong once are read again, and only
// then.
func TestWrongBytesOnce(t *testing.T) {
	dir := digested(t, 1)
	rule := "read model.safetensors [4000000,4000001) corrupt"
	m := load(t, dir, withOpen(faulty(t, rule+" times=1", nil)))
	if r := m.Report(); r.Retries != 1 || !r.SourceVerified {
		t.Errorf("retries %d, verified %v", r.Retries, r.SourceVerified)
	}
	f, err := source.ParseFaults(rule)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(withOpen(func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
		s, err := source.Open(ctx, uri, source.Options{})
		if err != nil {
			return nil, err
		}
		return source.Inject(s, f), nil
	})).Load(t.Context(), dir)
	if recovery.ClassOf(err) != recovery.DigestMismatch || f.Hits()[0].Hits != 2 {
		t.Errorf("%v after %d reads", err, f.Hits()[0].Hits)
	}
}

// TestStaleDigests: digests of another version are not passed over.
func TestStaleDigests(t *testing.T) {
	dir, other := digested(t, 1), digested(t, 2)
	copyFiles(t, dir, filepath.Join(other, digests.Name))
	_, err := New().Load(t.Context(), dir)
	if recovery.ClassOf(err) != recovery.DigestMismatch || !strings.Contains(err.Error(), "verify --write") {
		t.Errorf("another model's: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, digests.Name), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New().Load(t.Context(), dir); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
		t.Errorf("malformed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, digests.Name)); err != nil {
		t.Fatal(err)
	}
	if load(t, dir).Report().SourceVerified {
		t.Error("verified without digests")
	}
}

// TestReadsEndWhereUnitsDo: no read cuts a unit of the digests, which would be
// hashed in parts, but one that its chunk cuts.
func TestReadsEndWhereUnitsDo(t *testing.T) {
	dir := synth(t, 1)
	_, ix := open(t, dir)
	plan := build(t, ix, shard.Options{Scheme: "q8_0"})
	j, err := newTeam(t, dir, plan, 1, NodeOptions{}).nodes[0].job("j")
	if err != nil {
		t.Fatal(err)
	}
	defer j.leave()
	cuts := 0
	for i := range plan.Chunks {
		var runs []run
		for k := range plan.Chunks[i].Segments {
			seg := &plan.Chunks[i].Segments[k]
			runs = append(runs, run{seg: seg, enc: &j.encoded[seg.Tensor], srcRow: seg.Bytes / seg.Rows.Len(), rows: seg.Rows})
		}
		for _, b := range batches(runs, slabBytes) {
			if n := batchBytes(b); n > slabBytes {
				t.Errorf("chunk %d: a read of %d bytes", i, n)
			}
			for _, s := range b {
				if s.rows.Stop < s.run.rows.Stop {
					cuts++
					if s.rows.Stop%digests.UnitRows(s.run.srcRow) != 0 {
						t.Errorf("chunk %d: rows [%d, %d) of %d bytes", i, s.rows.Start, s.rows.Stop, s.run.srcRow)
					}
				}
			}
		}
	}
	if cuts == 0 {
		t.Error("no tensor is read in parts")
	}
}

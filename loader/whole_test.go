package loader

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	checkpoints "github.com/gantry-ml/gantry/checkpoint/synth"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
)

// BenchmarkWhole times whole loads of 1 GiB of F32 as q8_0 from a warm page
// cache, with digests of what is read and without: headers, plan, arenas and
// their page faults, reading, sealing, validation. After each it times a copy of
// as many bytes from memory to memory on all cores. All figures are medians:
// of-memcpy of the ratios, the others milliseconds.
func BenchmarkWhole(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "model")
	stored, err := checkpoints.Write(b.Context(), dir, checkpoints.Options{Bytes: 1 << 30, DType: dtype.F32})
	if err != nil {
		b.Fatal(err)
	}
	var mem [2][]byte
	for i := range mem {
		a, err := device.NewArena(device.CPU, stored.Bytes)
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
		mem[i] = a.Host()
		for k := range mem[i] {
			mem[i][k] = byte(k)
		}
	}
	whole := func(verified bool) func(b *testing.B) {
		return func(b *testing.B) {
			figures := map[string][]float64{}
			add := func(name string, f float64) { figures[name] = append(figures[name], f) }
			b.SetBytes(stored.Bytes)
			for b.Loop() {
				begun := time.Now()
				m, err := New(WithQuantization(quant.Config{Scheme: "q8_0"})).Load(b.Context(), dir)
				if err != nil {
					b.Fatal(err)
				}
				load := time.Since(begun)
				b.StopTimer()
				r := m.Report()
				if err := m.Close(); err != nil || r.SourceVerified != verified {
					b.Fatalf("verified %t: %v", r.SourceVerified, err)
				}
				time.Sleep(50 * time.Millisecond) // until the file is unmapped
				begun = time.Now()
				copyAll(mem[0], mem[1])
				memcpy := time.Since(begun)
				add("of-memcpy", memcpy.Seconds()/load.Seconds())
				add("memcpy-ms", 1e3*memcpy.Seconds())
				add("load-ms", 1e3*load.Seconds())
				for _, s := range r.Stages {
					add(string(s.Stage)+"-ms", 1e3*s.Seconds)
				}
				b.StartTimer()
			}
			for name, all := range figures {
				slices.SortFunc(all, cmp.Compare)
				b.ReportMetric(all[len(all)/2], name)
			}
		}
	}
	b.Run("digests", whole(true))
	if err := os.Remove(filepath.Join(dir, digests.Name)); err != nil {
		b.Fatal(err)
	}
	b.Run("plain", whole(false))
}

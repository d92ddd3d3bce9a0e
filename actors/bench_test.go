package actors

import (
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
)

// BenchmarkChunk measures what the actors cost for a chunk, coordinator and
// workers together, with a data path that does nothing. DESIGN.md section 12
// gives the coordinator 50 µs.
func BenchmarkChunk(b *testing.B) {
	const chunks = 20000
	w := newWorld(b, 2)
	w.tensors = chunks
	for b.Loop() {
		q := request("")
		q.Name, q.Once = "bench", true
		j := w.load(q)
		if j.State != messages.StateReady {
			b.Fatal(j.Why)
		}
		b.ReportMetric(float64(time.Duration(j.Seconds*1e9).Microseconds())/chunks, "µs/chunk")
		w.until("it is unloaded", func() bool { return w.nodes[0].empty() && w.nodes[1].empty() })
	}
}

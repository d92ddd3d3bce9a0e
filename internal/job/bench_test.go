package job

import (
	"fmt"
	"testing"
)

// BenchmarkLoad drives a whole load; the budget is 50 µs a chunk, and a cost
// that does not grow with chunks or workers.
func BenchmarkLoad(b *testing.B) {
	for _, c := range []struct{ chunks, workers, ranks, each int }{
		{10_000, 100, 100, 1}, {100_000, 100, 100, 1}, {100_000, 1000, 1000, 1}, {100_000, 1000, 1000, 8},
	} {
		b.Run(fmt.Sprintf("chunks=%d/workers=%d/pieces=%d", c.chunks, c.workers, c.each), func(b *testing.B) {
			plan := planOf(c.ranks, c.chunks, func(n int) []int {
				group := n % (c.ranks / c.each)
				to := make([]int, c.each)
				for i := range to {
					to[i] = group*c.each + i
				}
				return to
			})
			var ups []WorkerUp
			for i := range c.workers {
				ups = append(ups, cpu(fmt.Sprint("w", i), 1, 1000))
			}
			for b.Loop() {
				j := New(plan, Options{})
				drive(j, j.Start(t0, ups))
				if j.Status() != Ready {
					b.Fatal(j.Status(), j.Err())
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.chunks), "ns/chunk")
		})
	}
}

// drive is obey without a record of what was seen.
func drive(j *Job, cmds []Command) {
	for i := 0; i < len(cmds); i++ {
		switch c := cmds[i].(type) {
		case Place:
			cmds = append(cmds, j.Step(t0, Placed{c.Hold})...)
		case Load:
			cmds = append(cmds, j.Step(t0, Accepted{c.Ref})...)
			cmds = append(cmds, j.Step(t0, done(c))...)
		case Seal:
			cmds = append(cmds, j.Step(t0, Sealed{Hold: c.Hold})...)
		}
		cmds[i] = nil
	}
}

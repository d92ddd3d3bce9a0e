// Package alloctest tells tests how much memory something allocates: parsers
// must not allocate more than their input is worth, whatever it claims.
package alloctest

import "runtime"

// Slack is what every parser may allocate besides what its input is worth:
// errors, first buffers, and what other goroutines do meanwhile.
const Slack = 256 << 10

// Bytes returns how many bytes f allocates in all, kept or not. It stops the
// world to count: runtime/metrics may count small objects late, up to some
// hundred KiB of what others allocated before when a collection falls into f.
func Bytes(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Over returns how many bytes f allocates, and whether that is more than limit
// and Slack. The whole process is counted: what is over the limit is measured
// again, and the least counts. f is called up to three times.
func Over(limit uint64, f func()) (n uint64, over bool) {
	n = Bytes(f)
	for range 2 {
		if n > limit+Slack {
			n = min(n, Bytes(f))
		}
	}
	return n, n > limit+Slack
}

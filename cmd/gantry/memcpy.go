package main

import (
	"runtime"
	"sync"
	"time"

	"github.com/gantry-ml/gantry/device"
)

// memcpyBytes is how much memory is copied: well beyond any cache.
const memcpyBytes = 256 << 20

// memcpyRates measures how fast one core, and all cores together, copy memory
// that has been faulted in, in bytes copied per second: the limits beside
// which a load's rate is reported. Each is the best of three runs.
func memcpyRates() (one, all float64, err error) {
	src, err := device.NewArena("cpu", memcpyBytes)
	if err != nil {
		return 0, 0, err
	}
	defer src.Close()
	dst, err := device.NewArena("cpu", memcpyBytes)
	if err != nil {
		return 0, 0, err
	}
	defer dst.Close()
	for i := 0; i < memcpyBytes; i += 4096 {
		src.Host()[i] = byte(i >> 12) // a page that was never written reads as the one zero page
	}
	cores := runtime.GOMAXPROCS(0)
	copyOn(cores, dst.Host(), src.Host()) // faults the destination in
	rate := func(cores int) float64 {
		best := time.Duration(1 << 62)
		for range 3 {
			t := time.Now()
			copyOn(cores, dst.Host(), src.Host())
			best = min(best, time.Since(t))
		}
		return memcpyBytes / best.Seconds()
	}
	return rate(1), rate(cores), nil
}

// copyOn copies src to dst, a part on each of n cores.
func copyOn(n int, dst, src []byte) {
	var wg sync.WaitGroup
	for i := range n {
		from, to := len(src)*i/n, len(src)*(i+1)/n
		wg.Go(func() { copy(dst[from:to], src[from:to]) })
	}
	wg.Wait()
}

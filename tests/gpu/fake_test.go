//go:build fakecuda

package gpu

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/fakecuda"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// state is that of the fake which this process is about to load.
var state *fakecuda.State

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if h := os.Getenv(envAttach); h != "" {
			return told(attach(h))
		}
		dir, err := os.MkdirTemp("", "fakecuda-")
		if err == nil {
			defer os.RemoveAll(dir)
			path := filepath.Join(dir, "state")
			if err = fakecuda.Create(path); err == nil {
				state, err = fakecuda.Map(path)
			}
			os.Setenv(fakecuda.EnvState, path)
		}
		if err != nil {
			return told(err)
		}
		return m.Run()
	}())
}

// clean fails the test where memory is left on the device, or pinned, after it.
func clean(t *testing.T) {
	t.Helper()
	_, free, err := device.Pin(gpu, 1) // the provider is up
	if err == nil {
		err = free()
	}
	if err != nil {
		t.Fatal(err)
	}
	device, pinned := state.DeviceBytes, state.PinnedBytes
	t.Cleanup(func() {
		if d, p := state.DeviceBytes, state.PinnedBytes; d != device || p != pinned {
			t.Errorf("%d bytes on the device and %d of pinned memory are left", d-device, p-pinned)
		}
	})
}

// watch counts what a load does from here on, until the returned function is
// called with the model.
func watch(t *testing.T) func(*model.Model) {
	state.PinnedPeak = state.PinnedBytes
	before := *state
	return func(m *model.Model) {
		t.Helper()
		copies, bytes := planned(m.Plan())
		if n, b := state.Copies[fakecuda.HostToDevice]-before.Copies[fakecuda.HostToDevice], state.Copied[fakecuda.HostToDevice]-before.Copied[fakecuda.HostToDevice]; n != copies || b != bytes {
			t.Errorf("%d copies of %d bytes to the device, planned are %d of %d", n, b, copies, bytes)
		}
		if n := state.Pageable; n != before.Pageable {
			t.Errorf("copies went through memory that is not pinned: %d, %d before", n, before.Pageable)
		}
		if peak := state.PinnedPeak - before.PinnedBytes; peak > staging || int64(peak) > m.Report().PeakStaging {
			t.Errorf("%d bytes were pinned, %d may be staged, and %d are said to have been", peak, staging, m.Report().PeakStaging)
		}
		if n := state.StreamsMade - before.StreamsMade; n != 0 {
			t.Errorf("%d streams were made for it", n)
		}
	}
}

// planned is how many copies to devices a plan comes to, and of how many bytes.
func planned(p *shard.Plan) (copies, bytes uint64) {
	for i := range p.Chunks {
		for _, piece := range p.Chunks[i].Pieces {
			copies += uint64(len(piece.Extents))
			bytes += uint64(piece.Bytes)
		}
	}
	return copies, bytes
}

// TestCopies: an arena is one allocation of its size, and a copy is one copy,
// from pinned memory without the driver's staging.
func TestCopies(t *testing.T) {
	clean(t)
	const size = 3 << 20
	before := *state
	a := open(t, size)
	if allocs, bytes := state.DeviceAllocs-before.DeviceAllocs, state.DeviceBytes-before.DeviceBytes; allocs != 1 || bytes != size {
		t.Errorf("%d allocations of %d bytes, want one of %d", allocs, bytes, size)
	}
	pinned, free, err := device.Pin(gpu, size)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range pinned {
		pinned[i] = byte(r.Uint32())
	}
	if err := a.CopyIn(0, pinned[:2<<20]); err != nil {
		t.Fatal(err)
	}
	if err := a.CopyIn(2<<20, pinned[2<<20:]); err != nil {
		t.Fatal(err)
	}
	if n, b := state.Copies[fakecuda.HostToDevice]-before.Copies[fakecuda.HostToDevice], state.Copied[fakecuda.HostToDevice]-before.Copied[fakecuda.HostToDevice]; n != 2 || b != size {
		t.Errorf("%d copies of %d bytes, want 2 of %d", n, b, size)
	}
	if n, d := state.Pageable[fakecuda.HostToDevice]-before.Pageable[fakecuda.HostToDevice], state.Deferred-before.Deferred; n != 0 || d != 2 {
		t.Errorf("%d copies went through pageable memory and %d through the stream, want 0 and 2", n, d)
	}
	got := make([]byte, size)
	if err := a.CopyOut(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, pinned) {
		t.Error("what was copied in does not come out")
	}
	if err := free(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailures: what CUDA refuses is named in its own words, and nothing is
// left behind.
func TestFailures(t *testing.T) {
	clean(t)
	a := open(t, 1<<20)
	defer a.Close()
	p := make([]byte, 1<<20)
	for _, tt := range []struct {
		name  string
		fail  fakecuda.Failure
		do    func() error
		class recovery.Class
		want  string
	}{
		{"out of memory", fakecuda.Call("cudaMalloc", 0, 1, fakecuda.ErrorMemoryAllocation), func() error { _, err := device.NewArena(gpu, 4096); return err },
			recovery.OutOfCapacity, "make an arena of 4096 bytes on cuda:0: cudaMalloc: cudaErrorMemoryAllocation: out of memory"},
		{"alloc", fakecuda.Call("cudaMalloc", 0, 1, fakecuda.ErrorLaunchFailure), func() error { _, err := device.NewArena(gpu, 4096); return err },
			recovery.Unavailable, "cudaMalloc: cudaErrorLaunchFailure"},
		{"clear", fakecuda.Call("cudaMemset", 0, 1, fakecuda.ErrorIllegalAddress), func() error { _, err := device.NewArena(gpu, 4096); return err },
			recovery.Internal, "clear an arena on cuda:0: cudaMemset: cudaErrorIllegalAddress"},
		{"copy in", fakecuda.Call("cudaMemcpyAsync", 0, 1, fakecuda.ErrorIllegalAddress), func() error { return a.CopyIn(16, p[:100]) },
			recovery.Unavailable, "copy to cuda:0 bytes [16, 116): cudaMemcpyAsync: cudaErrorIllegalAddress: an illegal memory access"},
		{"copy in, later", fakecuda.Call("cudaStreamSynchronize", 0, 1, fakecuda.ErrorLaunchFailure), func() error { return a.CopyIn(0, p) },
			recovery.Unavailable, "copy to cuda:0 bytes [0, 1048576): cudaStreamSynchronize: cudaErrorLaunchFailure"},
		{"copy out", fakecuda.Call("cudaMemcpyAsync", 0, 1, fakecuda.ErrorIllegalAddress), func() error { return a.CopyOut(p, 0) },
			recovery.Unavailable, "copy from cuda:0 bytes [0, 1048576): cudaMemcpyAsync: cudaErrorIllegalAddress"},
		{"pin", fakecuda.Call("cudaMallocHost", 0, 1, fakecuda.ErrorMemoryAllocation), func() error { _, _, err := device.Pin(gpu, 4096); return err },
			recovery.OutOfCapacity, "pin host memory of 4096 bytes on cuda:0: cudaMallocHost: cudaErrorMemoryAllocation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clean(t)
			state.Failures[0] = tt.fail
			err := tt.do()
			if recovery.ClassOf(err) != tt.class || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want class %s and %q", err, tt.class, tt.want)
			}
			if state.Failures[0].Times != 0 {
				t.Errorf("%s was not called", tt.name)
			}
			if err := a.CopyIn(0, p); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// TestFailuresAtOnce: each of the copies that fail at the same time says why.
func TestFailuresAtOnce(t *testing.T) {
	clean(t)
	a := open(t, 1<<20)
	defer a.Close()
	state.Failures[0] = fakecuda.Call("cudaMemcpyAsync", 0, always, fakecuda.ErrorIllegalAddress)
	defer func() { state.Failures[0] = fakecuda.Failure{} }()
	var group errgroup.Group
	for w := range 8 {
		group.Go(func() error {
			for range 500 {
				err := a.CopyIn(int64(w), []byte{1})
				if err == nil || !strings.Contains(err.Error(), "cudaMemcpyAsync: cudaErrorIllegalAddress") {
					return fmt.Errorf("%v, want CUDA's reason", err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// always is how often a call fails that never gets through.
const always = 1 << 40

// TestLoadFailures: a load goes on after a copy that failed once, and ends with
// CUDA's reason where copies or allocations keep failing. Nothing is left on
// the device.
func TestLoadFailures(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fail  fakecuda.Failure
		class recovery.Class // "" where the load is done
		want  string
	}{
		{"one copy", fakecuda.Call("cudaMemcpyAsync", 3, 1, fakecuda.ErrorLaunchFailure), "", ""},
		{"one wait for a copy", fakecuda.Call("cudaStreamSynchronize", 4, 1, fakecuda.ErrorLaunchFailure), "", ""},
		{"every copy", fakecuda.Call("cudaMemcpyAsync", 3, always, fakecuda.ErrorIllegalAddress), recovery.Unavailable, "cudaMemcpyAsync: cudaErrorIllegalAddress"},
		{"the second arena", fakecuda.Call("cudaMalloc", 1, always, fakecuda.ErrorMemoryAllocation), recovery.OutOfCapacity, "cudaMalloc: cudaErrorMemoryAllocation: out of memory"},
		{"pinned memory", fakecuda.Call("cudaMallocHost", 0, always, fakecuda.ErrorMemoryAllocation), recovery.OutOfCapacity, "pin host memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clean(t)
			state.Failures[0] = tt.fail
			defer func() { state.Failures[0] = fakecuda.Failure{} }()
			m, err := load(t, gpu, "q8_0")
			if tt.class != "" {
				if recovery.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, want class %s and %q", err, tt.class, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if state.Failures[0].Times != 0 || m.Report().Retries == 0 {
				t.Errorf("%d failures are left, and %d retries were made", state.Failures[0].Times, m.Report().Retries)
			}
			host, err := load(t, device.CPU, "q8_0")
			if err != nil {
				t.Fatal(err)
			}
			same(t, m, host)
		})
	}
}

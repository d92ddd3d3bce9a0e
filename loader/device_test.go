package loader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// apart is a device whose memory the CPU does not reach, and that is copied to
// from pinned memory only.
type apart struct {
	t testing.TB

	mu             sync.Mutex
	arenas, pinned [][]byte // that are there
	mostPinned     int64
	copies, copied int64  // to the device, and their bytes
	fail           error  // of the next copy
	spoil          bool   // the next copy
	during         func() // what happens while something is copied to the device; nil is nothing
}

// options makes nodes place on the device.
func (d *apart) options(staging int64) NodeOptions {
	return NodeOptions{Staging: staging, NewArena: d.newArena, Pin: d.pin}
}

func (d *apart) newArena(id string, n int64) (device.Arena, error) {
	a, err := device.NewArena(device.CPU, n)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arenas = append(d.arenas, a.Host())
	return &apartArena{a, id, d}, nil
}

func (d *apart) pin(id string, n int64) ([]byte, func() error, error) {
	b := make([]byte, n)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pinned = append(d.pinned, b)
	var all int64
	for _, p := range d.pinned {
		all += int64(len(p))
	}
	d.mostPinned = max(d.mostPinned, all)
	return b, func() error { d.forget(&d.pinned, b); return nil }, nil
}

func (d *apart) forget(list *[][]byte, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, x := range *list {
		if len(x) == len(b) && (len(b) == 0 || &x[0] == &b[0]) {
			*list = append((*list)[:i:i], (*list)[i+1:]...)
			return
		}
	}
	d.t.Error("memory that was not there is given back")
}

func (d *apart) copy(p []byte, in bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail; err != nil {
		d.fail = nil
		return err
	}
	if !in {
		return nil
	}
	d.copies++
	d.copied += int64(len(p))
	for i := range d.pinned {
		if r := (region{memory: d.pinned[i]}); r.owns(p) {
			return nil
		}
	}
	return errors.New("a copy from memory that is not pinned")
}

// clean fails where memory is left.
func (d *apart) clean() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.arenas)+len(d.pinned) > 0 {
		d.t.Errorf("%d arenas and %d pinned regions are left", len(d.arenas), len(d.pinned))
	}
}

type apartArena struct {
	device.Arena
	id string
	on *apart
}

func (a *apartArena) Device() string { return a.id }
func (a *apartArena) Host() []byte   { return nil }

func (a *apartArena) CopyIn(off int64, p []byte) error {
	if a.on.during != nil {
		a.on.during()
	}
	if err := errors.Join(a.on.copy(p, true), a.Arena.CopyIn(off, p)); err != nil {
		return err
	}
	a.on.mu.Lock()
	defer a.on.mu.Unlock()
	if a.on.spoil && len(p) > 0 {
		a.on.spoil = false
		a.Arena.Host()[off] ^= 1
	}
	return nil
}

func (a *apartArena) CopyOut(p []byte, off int64) error {
	return errors.Join(a.on.copy(p, false), a.Arena.CopyOut(p, off))
}

func (a *apartArena) Close() error {
	a.on.forget(&a.on.arenas, a.Arena.Host())
	return a.Arena.Close()
}

// planned is how many copies to devices a plan comes to, and of how many bytes.
func planned(p *shard.Plan) (copies, bytes int64) {
	for i := range p.Chunks {
		for _, piece := range p.Chunks[i].Pieces {
			copies += int64(len(piece.Extents))
			bytes += piece.Bytes
		}
	}
	return copies, bytes
}

// TestDevices: what ranks hold on devices is what they hold in host memory,
// whether pieces are made here or come from other workers; each byte is copied
// once, from pinned memory within the budget; and nothing is left.
func TestDevices(t *testing.T) {
	const staging = 2 << 20
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	for _, scheme := range quant.Names() {
		for _, nodes := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s on %d", scheme, nodes), func(t *testing.T) {
				d := &apart{t: t}
				t.Cleanup(d.clean)
				plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: scheme, ChunkBytes: 64 << 10})
				want := newTeam(t, path, plan, 1, NodeOptions{}).load(t.Context())
				m := newTeam(t, path, plan, nodes, d.options(staging))
				for r, got := range m.load(t.Context()) {
					if got.Digest != want[r].Digest || got.Validation.Placed != want[r].Validation.Placed {
						t.Errorf("rank %d: %+v, in host memory %+v", r, got, want[r])
					}
					if !got.Validation.Ran || got.Validation.MaxError != want[r].Validation.MaxError {
						t.Errorf("rank %d is checked with %+v, in host memory %+v", r, got.Validation, want[r].Validation)
					}
				}
				if copies, bytes := planned(plan); d.copies != copies || d.copied != bytes {
					t.Errorf("%d copies of %d bytes, planned are %d of %d", d.copies, d.copied, copies, bytes)
				}
				if d.mostPinned > int64(nodes)*staging {
					t.Errorf("%d bytes were pinned, %d nodes may stage %d each", d.mostPinned, nodes, staging)
				}
				for _, n := range m.nodes {
					if n.PeakStaging() > staging {
						t.Errorf("%d bytes of staging, %d are allowed", n.PeakStaging(), staging)
					}
				}
			})
		}
	}
}

// TestDeviceCopyFails: a piece whose copy fails is not placed, and is placed by
// the next attempt, whether it was made here or received.
func TestDeviceCopyFails(t *testing.T) {
	broken := &recovery.Error{Class: recovery.Unavailable, Op: "copy to apart", Err: errors.New("an ECC error")}
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 2}})
	d := &apart{t: t}
	t.Cleanup(d.clean)
	m := newTeam(t, path, plan, 2, d.options(64<<20))
	for i, dest := range m.dests(0, 0) { // one here, one at the other node
		d.fail = broken
		_, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Attempt: uint64(2*i + 1)}, []Dest{dest})
		if recovery.ClassOf(err) != recovery.Unavailable || !strings.Contains(err.Error(), "an ECC error") {
			t.Errorf("rank %d: %v, want class unavailable and the reason", dest.Hold.Rank, err)
		}
		done, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Attempt: uint64(2*i + 2)}, []Dest{dest})
		if err != nil || len(done) != 1 {
			t.Errorf("rank %d, once more: %v, %v", dest.Hold.Rank, done, err)
		}
	}
}

// TestDeviceCopiesOverlap: while a chunk is copied the next is read and
// transformed, also where only one may be at once.
func TestDeviceCopiesOverlap(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	plan := build(t, ix, shard.Options{Scheme: "q8_0", ChunkBytes: 256 << 10})
	d := &apart{t: t}
	t.Cleanup(d.clean)
	o := d.options(4 << 20)
	o.Parallel = 1
	m := newTeam(t, path, plan, 1, o)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	copying, both := make(chan struct{}, len(plan.Chunks)), make(chan struct{})
	var once sync.Once
	d.during = func() {
		select {
		case copying <- struct{}{}:
		default:
		}
		if len(copying) > 1 { // two chunks, since each copies its extents in turn
			once.Do(func() { close(both) })
		}
		select {
		case <-both:
		case <-ctx.Done():
			t.Error("nothing was read while a chunk was copied")
		}
	}
	m.load(ctx)
}

// TestDeviceReadBack: what is not on the device as it was copied is found when
// the rank is validated.
func TestDeviceReadBack(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	d := &apart{t: t, spoil: true}
	t.Cleanup(d.clean)
	m := newTeam(t, path, build(t, ix, shard.Options{Scheme: "q8_0"}), 1, d.options(64<<20))
	m.chunks(t.Context())
	_, err := m.nodes[0].Seal(t.Context(), "j", m.holds[0])
	if recovery.ClassOf(err) != recovery.DigestMismatch || !strings.Contains(err.Error(), "on apart the piece of chunk 0 has digest") {
		t.Errorf("%v, want class digest_mismatch, the device and the chunk", err)
	}
}

// TestDeviceStagingTooSmall: pieces that pinned memory cannot hold are refused
// before anything is read.
func TestDeviceStagingTooSmall(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	d := &apart{t: t}
	t.Cleanup(d.clean)
	n := NewNode(d.options(1 << 20)) // of one chunk of 1016 KiB half is not enough
	if err := n.Open(t.Context(), JobSpec{ID: "j", Epoch: 1, URI: path, Plan: build(t, ix, shard.Options{})}); err != nil {
		t.Fatal(err)
	}
	defer n.Close("j")
	err := n.Place(t.Context(), "j", job.Hold{Generation: 1, Device: "apart"})
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "pinned staging memory, the budget is 524288") {
		t.Errorf("%v, want class out_of_capacity and what is too small", err)
	}
}

// TestDeviceReplicas: a copy of a rank is filled from the device that another
// is on.
func TestDeviceReplicas(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		d := &apart{t: t}
		t.Cleanup(d.clean)
		m := replicas(t, nodes, d.options(4<<20))
		for i := range m.plan.Chunks {
			m.first(i)
			for _, p := range m.plan.Chunks[i].Pieces {
				if p.Rank < 2 {
					continue
				}
				if _, err := m.copy(i, p.Rank-2, p.Rank, 2); err != nil {
					t.Fatalf("chunk %d of rank %d: %v", i, p.Rank, err)
				}
			}
		}
		for r := range 2 {
			size := m.plan.Ranks[r].ArenaBytes
			a, b := make([]byte, size), make([]byte, size)
			if err := errors.Join(m.read(r, a, 0), m.read(r+2, b, 0)); err != nil || !bytes.Equal(a, b) {
				t.Errorf("on %d nodes rank %d and its copy differ: %v", nodes, r, err)
			}
		}
	}
}

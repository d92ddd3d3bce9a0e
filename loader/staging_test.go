package loader

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/recovery"
)

// Buffers in use never overlap, stay within the budget, and are cut from the
// lowest address with room.
func TestStagingBuffersDoNotOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStaging(64 * stagingAlign)
		defer s.trim()
		var held [][]byte
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			n := rapid.Int64Range(0, 9*stagingAlign).Draw(t, "bytes")
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // served at once or not at all
			b, err := s.get(ctx, n, stagingAlign)
			switch {
			case err == nil:
				if int64(len(b[0])) < n || n == 0 && b[0] != nil {
					t.Fatalf("%d bytes for %d", len(b[0]), n)
				}
				for _, b := range b {
					count(b, 1)
					held = append(held, b)
				}
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			}
			for len(held) > 0 && rapid.Bool().Draw(t, "put") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				if owners := count(held[i], -1); owners > 1 {
					t.Fatalf("a buffer has %d owners", owners)
				}
				s.put(held[i])
				held = append(held[:i], held[i+1:]...)
			}
		}
		for _, b := range held {
			count(b, -1)
			s.put(b)
		}
		if len(s.pages.used) != 0 || len(s.waiting) != 0 {
			t.Fatalf("%d buffers and %d requests are left", len(s.pages.used), len(s.waiting))
		}
		if s.peakBytes() > s.budget {
			t.Fatalf("%d bytes of a budget of %d", s.peakBytes(), s.budget)
		}
	})
}

// count adds an owner to each unit of a buffer, or takes one away, and returns
// the most that one had.
func count(b []byte, owners int) (most int) {
	for i := 0; i < len(b); i += stagingAlign {
		most = max(most, int(b[i]))
		b[i] += byte(owners)
	}
	return most
}

func TestStagingUsesTheSamePagesAgain(t *testing.T) {
	s := newStaging(1 << 30)
	defer s.trim()
	for range 100 {
		b, err := s.get(t.Context(), 3*stagingAlign-1, 1)
		if err != nil {
			t.Fatal(err)
		}
		s.put(b[1])
		s.put(b[0])
	}
	if s.peakBytes() != 4*stagingAlign {
		t.Errorf("%d bytes were used, want %d", s.peakBytes(), 4*stagingAlign)
	}
}

// A large request is served before small ones that came later, and a request
// that is given up is in nobody's way.
func TestStagingServesInTurn(t *testing.T) {
	s := newStaging(4 * stagingAlign)
	defer s.trim()
	first, err := s.get(t.Context(), stagingAlign)
	if err != nil {
		t.Fatal(err)
	}
	queue := func(ctx context.Context, n int64) (done chan []byte) {
		done = make(chan []byte, 1)
		before := waiters(s)
		go func() {
			b, err := s.get(ctx, n)
			if err != nil {
				close(done)
				return
			}
			done <- b[0]
		}()
		for waiters(s) == before && len(done) == 0 {
			runtime.Gosched()
		}
		return done
	}
	ctx, giveUp := context.WithCancel(t.Context())
	large := queue(t.Context(), 4*stagingAlign)
	given := queue(ctx, 4*stagingAlign)
	small := queue(t.Context(), stagingAlign)
	if len(large) > 0 || len(small) > 0 {
		t.Fatal("served out of turn")
	}
	s.put(first[0])
	b := <-large
	if len(small) > 0 {
		t.Fatal("a small request was served while the large one held all")
	}
	giveUp()
	if _, ok := <-given; ok {
		t.Fatal("a request that was given up was served")
	}
	s.put(b)
	s.put(<-small)
}

func waiters(s *staging) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

func TestStagingRefusesWhatNeverFits(t *testing.T) {
	s := newStaging(2 * stagingAlign)
	if _, err := s.get(t.Context(), 2*stagingAlign, 1); recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("three parts of two: %v", err)
	}
}

// pin is a pinner without a device.
func pin(n int64) ([]byte, func() error, error) {
	return make([]byte, n), func() error { return nil }, nil
}

// Pinned memory is half of the budget; a request for both kinds gets both or
// none; and one for pinned memory alone overtakes what lacks pages, since who
// holds them may be waiting for it, but nothing that lacks pinned memory.
func TestStagingPinned(t *testing.T) {
	const n = stagingAlign
	s := newStaging(8 * n)
	if err := s.usePinned(t.Context(), pin, 4*n); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.getPinned(t.Context(), 5*n); recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("five parts of four pinned ones: %v", err)
	}
	if _, err := s.get(t.Context(), 5*n); recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("five parts of four beside pinned ones: %v", err)
	}
	sent, err := s.get(t.Context(), 3*n)
	if err != nil {
		t.Fatal(err)
	}
	type both struct {
		pinned []byte
		pages  [][]byte
	}
	queue := func(pinned, pages int64) chan both {
		done := make(chan both, 1)
		before := waiters(s)
		go func() {
			p, b, err := s.getPinned(t.Context(), pinned, pages)
			if err != nil {
				t.Error(err)
			}
			done <- both{p, b}
		}()
		for waiters(s) == before && len(done) == 0 {
			runtime.Gosched()
		}
		return done
	}
	chunk := queue(2*n, 2*n) // lacks pages, and holds no pinned memory
	landing := (<-queue(4*n, 0)).pinned
	later := queue(n, 0) // behind the chunk, which lacks pinned memory as well now
	s.put(sent[0])
	if len(chunk)+len(later) > 0 {
		t.Fatal("served without room")
	}
	s.put(landing)
	b := <-chunk
	s.put((<-later).pinned)
	s.put(b.pinned)
	s.put(b.pages[0])
	if s.peakBytes() > s.budget {
		t.Errorf("%d bytes of a budget of %d", s.peakBytes(), s.budget)
	}
	if err := s.close(); err != nil || s.pinned.memory != nil {
		t.Errorf("pinned memory is left: %v", err)
	}
	all, err := s.get(t.Context(), 8*n)
	if err != nil {
		t.Fatalf("the whole budget, once no device is used: %v", err)
	}
	s.put(all[0])
	s.trim()
}

// What pinning fails with is told to who asked, and to no other.
func TestStagingPinFails(t *testing.T) {
	s := newStaging(8 * stagingAlign)
	defer s.trim()
	broken := true
	err := s.usePinned(t.Context(), func(n int64) ([]byte, func() error, error) {
		if broken {
			return nil, nil, recovery.Errorf(recovery.OutOfCapacity, "no more can be pinned")
		}
		return pin(n)
	}, 0)
	if recovery.ClassOf(err) != recovery.OutOfCapacity {
		t.Errorf("%v, want what the device said", err)
	}
	broken = false
	b, _, err := s.getPinned(t.Context(), 1)
	if err != nil {
		t.Fatalf("later: %v", err)
	}
	s.put(b)
}

func TestStagingPrefault(t *testing.T) {
	s := newStaging(64 * stagingAlign)
	for _, n := range []int64{0, 1, 5 * stagingAlign, stagingAlign, 1 << 40} {
		if err := s.prefault(n); err != nil {
			t.Fatal(err)
		}
	}
	if s.peakBytes() != s.budget {
		t.Errorf("%d bytes are there, want %d", s.peakBytes(), s.budget)
	}
	b, err := s.get(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	s.trim() // leaves what is in use
	b[0][0] = 1
	s.put(b[0])
	s.trim()
	if s.pages.memory != nil {
		t.Error("an idle region is kept")
	}
}

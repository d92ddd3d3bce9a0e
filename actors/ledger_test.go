package actors

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
)

// TestLedgerNeverOverCommits: however jobs ask for rooms, take what they are
// told is free, give it back and end, no device holds more than its budget.
func TestLedgerNeverOverCommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := messages.Worker{Name: "w", Incarnation: 1}
		for i := range rapid.IntRange(1, 3).Draw(t, "devices") {
			w.Devices = append(w.Devices, messages.Device{
				ID: fmt.Sprint("d", i), Free: rapid.Int64Range(0, 100).Draw(t, "free"), Ranks: rapid.IntRange(0, 3).Draw(t, "ranks"),
			})
		}
		l := &ledger{}
		taken := map[string][]job.Hold{} // by job
		size := map[job.Hold]int64{}
		next := uint64(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "job")
			l.Lock()
			switch rooms := l.rooms(id, w, func(messages.Device) bool { return true }); rapid.IntRange(0, 4).Draw(t, "step") {
			case 0: // gives one back
				if n := len(taken[id]); n > 0 {
					l.release(id, taken[id][n-1])
					taken[id] = taken[id][:n-1]
				}
			case 1: // ends
				l.Unlock()
				l.forget(id)
				l.Lock()
				taken[id] = nil
			default: // takes some of a room, as the state machine does
				if len(rooms) == 0 {
					break
				}
				r := rapid.SampledFrom(rooms).Draw(t, "room")
				ranks := 0
				for _, h := range taken[id] { // its own are part of the room
					if h.Device == r.Device {
						r.Bytes -= size[h]
						ranks++
					}
				}
				if r.Bytes <= 0 || r.Ranks > 0 && ranks >= r.Ranks {
					break
				}
				next++
				h := job.Hold{Rank: int(next), Generation: 1, Worker: lifeOf(w), Device: r.Device}
				size[h] = rapid.Int64Range(1, r.Bytes).Draw(t, "bytes")
				l.reserve(id, h, size[h])
				taken[id] = append(taken[id], h)
			}
			l.Unlock()
			for _, d := range w.Devices {
				var bytes int64
				ranks := 0
				for _, holds := range taken {
					for _, h := range holds {
						if h.Device == d.ID {
							bytes, ranks = bytes+size[h], ranks+1
						}
					}
				}
				if bytes > d.Free || d.Ranks > 0 && ranks > d.Ranks {
					t.Fatalf("device %+v holds %d bytes of %d ranks", d, bytes, ranks)
				}
			}
		}
	})
}

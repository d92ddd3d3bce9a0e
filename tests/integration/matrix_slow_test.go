package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/progress"
)

// TestMatrixSlowDisk: the disk of one worker, which holds a rank, becomes slow
// soon after a load's start, in its middle or near its end. The others read
// what it does not get to, and nothing is read twice.
func TestMatrixSlowDisk(t *testing.T) {
	const (
		stall = 500 * time.Millisecond
		// reads is how many chunks the worker reads when its disk is as fast as
		// the others': of the 64 of its rank they take half. Each is one read.
		reads = 32
	)
	apart(t)
	s := newScene(t)
	for _, share := range only(t, []float64{.5, .05, .8}, 1) {
		s.again("w1", "--memory", "512MiB", "--inject", fmt.Sprintf("read model.safetensors delay %s after=%.0f", stall, share*reads))
		q := s.request(fmt.Sprintf("slow-%.0f", 100*share))
		q.URI, q.LimitRate, q.Once = eightMiB(t), 4<<20, true
		end, read, got := s.watched(q)
		if end.State != messages.StateReady || !slices.Equal(digestsOf(end), digestsOf(s.want)) {
			t.Errorf("%s: %s: %s: digests %v, undisturbed %v", q.Job, end.State, end.Why, digestsOf(end), digestsOf(s.want))
		}
		if end.BytesRead != s.needed() || end.Retries != 0 || got[progress.WorkerLost]+got[progress.RankMoved] != 0 {
			t.Errorf("%s: %d bytes were read, %d are needed; %d retries; events %v", q.Job, end.BytesRead, s.needed(), end.Retries, got)
		}
		if end.Seconds < stall.Seconds()+.2 {
			t.Errorf("%s: it took %.1f s, as if no disk had been slow", q.Job, end.Seconds)
		}
		if end.Ranks[0].Worker != "w1" && end.Ranks[1].Worker != "w1" {
			t.Errorf("%s: the slow worker holds none of %+v", q.Job, end.Ranks)
		}
		if others := (s.needed() - read["w1"]) / 3; share < .1 && read["w1"] > others {
			t.Errorf("%s: the slow worker read %d bytes, the others %d on average", q.Job, read["w1"], others)
		}
		s.clear()
		t.Logf("%s: %.1f s, the slow worker read %d of %d bytes", q.Job, end.Seconds, read["w1"], s.needed())
	}
	s.checkLeaks()
}

// watched makes a load and tells what each worker said to have read, and how
// many events of each kind there were.
func (s *scene) watched(q messages.LoadRequest) (end messages.Job, read map[string]int64, got map[progress.Kind]int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), jobLimit)
	defer cancel()
	s.Submit(q)
	notices, err := s.Client.WatchJob(ctx, q.Job)
	if err != nil {
		s.t.Fatal(err)
	}
	read, got = map[string]int64{}, map[progress.Kind]int{}
	for n := range notices {
		switch {
		case n.Err != nil:
			s.t.Fatal(n.Err)
		case n.Event != nil:
			got[n.Event.Kind]++
		case n.Progress != nil:
			read[n.Progress.Worker] = n.Progress.BytesDone
		case n.Job != nil:
			end = *n.Job
		}
	}
	return end, read, got
}

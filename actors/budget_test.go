package actors

import (
	"log/slog"
	"testing"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/messages"
)

// TestBudgetsFollowWhatIsFree: other programs' memory counts, the worker's own
// arenas do not, and small changes are not told.
func TestBudgetsFollowWhatIsFree(t *testing.T) {
	arenaOf := func(device string, bytes int64, placed bool) *shardTask {
		return &shardTask{hold: job.Hold{Device: device}, bytes: bytes, placed: placed}
	}
	there, made, other := arenaOf("cpu", 200, true), arenaOf("cpu", 100, false), arenaOf("cuda:0", 50, true)
	w := &worker{jobs: map[string]*heldJob{"a": {shards: map[arena]*shardTask{{0, 1}: there, {1, 1}: made, {2, 1}: other}}}}
	var told []messages.Worker
	w.WorkerOptions = WorkerOptions{
		Member: messages.Worker{Devices: []messages.Device{{ID: "cpu", Total: 6400, Free: 1000}, {ID: "cuda:0", Total: 6400, Free: 1000}}},
		Log:    slog.New(slog.DiscardHandler), Changed: func(m messages.Worker) { told = append(told, m) },
	}
	tell := func(cpu int64, arenas ...*shardTask) {
		w.measured(measured{free: map[string]int64{"cpu": cpu}, arenas: arenas})
	}
	budgets := func() [2]int64 { return [2]int64{w.Member.Devices[0].Free, w.Member.Devices[1].Free} }
	first := w.Member

	tell(800, there) // what its own arena takes is not missing
	tell(720, there) // nor is a little
	if len(told) != 0 || budgets() != [2]int64{1000, 1000} {
		t.Fatalf("budgets %v, told %v", budgets(), told)
	}
	tell(500, there) // another program has taken 300
	if len(told) != 1 || budgets() != [2]int64{700, 1000} || told[0].Devices[0].Free != 700 {
		t.Errorf("budgets %v, told %v", budgets(), told)
	}
	if first.Devices[0].Free != 1000 {
		t.Error("a lease that was given out was changed")
	}
	tell(1500) // the arena was made after it was measured: it may be in there or not
	if budgets() != [2]int64{1500, 1000} {
		t.Errorf("budgets %v", budgets())
	}
	gone := arenaOf("cpu", 400, true)
	tell(1500, there, gone) // freed meanwhile: it may be in there or not
	if budgets() != [2]int64{1700, 1000} {
		t.Errorf("budgets %v", budgets())
	}
}

package job

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

func TestChunkFailure(t *testing.T) {
	read := &recovery.Error{Class: recovery.Unavailable, Op: "read", File: "x.safetensors", Tensor: "w", Offset: 5, Length: 6, Err: errors.New("i/o error")}
	reset := recovery.Errorf(recovery.Reset, "broken pipe")
	for _, c := range []struct {
		name     string
		strategy recovery.Strategy
		err      error
		suspect  string // worker that is suspect when the report comes
		ends     bool
	}{
		{"a failed read ends it", recovery.Recover(), read, "", true},
		{"so does one under fail-fast", recovery.FailFast(), read, "", true},
		{"a reset to a suspect does not", recovery.Recover(), reset, "b", false},
		{"even under fail-fast", recovery.FailFast(), reset, "b", false},
		{"a failed read does, whoever is suspect", recovery.Recover(), read, "b", true},
		{"a reset between workers is tried again", recovery.Recover(), reset, "", false},
		{"but not under fail-fast", recovery.FailFast(), reset, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := planOf(2, 1, everyone(2))
			p.Files = []source.File{{Name: "model.safetensors"}}
			p.Tensors = []shard.Tensor{{Name: "norm"}}
			p.Chunks[0].Segments = []shard.Segment{{}}
			j := New(p, Options{Strategy: c.strategy})
			l := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))[0]
			if c.suspect != "" {
				j.Step(t0, WorkerSuspect{Worker{c.suspect, 1}, ""})
			}
			cmds := j.Step(t0, ChunkFailed{l.Ref, 30, c.err})
			ends := all[End](cmds)
			if (len(ends) == 1) != c.ends {
				t.Fatalf("ends %v", ends)
			}
			if j.BytesRead() != 30 {
				t.Errorf("%d bytes read", j.BytesRead())
			}
			if !c.ends {
				return
			}
			text := ends[0].Err.Error()
			for _, want := range []string{".safetensors", "tensor", "bytes ["} {
				if !strings.Contains(text, want) {
					t.Errorf("%q does not name %q", text, want)
				}
			}
			if len(all[Free](cmds)) != 2 || len(all[Revoke](cmds)) != 1 {
				t.Errorf("not everything was taken back: %v", cmds)
			}
		})
	}
}

func TestPeerFailureIsTriedAgainLaterAndNotForEver(t *testing.T) {
	j := New(planOf(2, 1, everyone(2)), Options{Strategy: recovery.Retry(2)})
	l := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))[0]
	now := t0
	for try := 1; try <= 2; try++ {
		cmds := j.Step(now, ChunkFailed{Ref: l.Ref, Err: recovery.Errorf(recovery.Reset, "broken pipe")})
		if len(all[Load](cmds)) != 0 || j.Retries() != try {
			t.Fatalf("try %d: %v, %d retries", try, cmds, j.Retries())
		}
		now = now.Add(time.Duration(try) * regroup)
		next := all[Load](j.Step(now, Tick{}))
		if len(next) != 1 || next[0].Ref.Attempt != l.Ref.Attempt+1 {
			t.Fatalf("after the pause came %v", next)
		}
		l = next[0]
	}
	if ends := all[End](j.Step(now, ChunkFailed{Ref: l.Ref, Err: recovery.Errorf(recovery.Reset, "broken pipe")})); len(ends) != 1 {
		t.Error("it did not give up")
	}
}

// TestFullMemory: what a worker has no memory to read others read, and that one
// gets no more for a while; a worker alone, or all of them, end the job.
func TestFullMemory(t *testing.T) {
	full := recovery.Errorf(recovery.OutOfCapacity, "map 1048576 bytes: cannot allocate memory")
	j := New(planOf(1, 8, everyone(1)), Options{})
	l := begin(t, j, cpu("a", 1, 1000))[0]
	if ends := all[End](j.Step(t0, ChunkFailed{l.Ref, 0, full})); len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.OutOfCapacity {
		t.Errorf("alone: %v", ends)
	}

	j = New(planOf(1, 8, everyone(1)), Options{Strategy: recovery.Retry(2)})
	loads := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 900))
	now, at := t0, map[string]int{}
	for _, l := range loads {
		if at[l.Ref.Worker.Name]++; l.Ref.Worker.Name != "a" {
			continue
		}
		for _, next := range all[Load](j.Step(now, ChunkFailed{l.Ref, 0, full})) {
			if next.Ref.Worker.Name == "a" {
				t.Errorf("chunk %d goes to a, whose memory is full", next.Ref.Chunk)
			}
		}
	}
	if at["a"] == 0 || j.over() || j.Retries() != at["a"] {
		t.Fatalf("loads %v, over %v: %v, %d retries", at, j.over(), j.Err(), j.Retries())
	}
	// The one with memory does all there is.
	seen := obey(j, now, toCommands(slices.DeleteFunc(loads, func(l Load) bool { return l.Ref.Worker.Name == "a" })), nil)
	now = now.Add(regroup)
	seen = append(seen, obey(j, now, j.Step(now, Tick{}), nil)...)
	for _, l := range all[Load](seen) {
		if l.Ref.Worker.Name == "a" {
			t.Errorf("chunk %d went to a, whose memory is full", l.Ref.Chunk)
		}
	}
	if j.Status() != Ready {
		t.Errorf("%s: %v, %+v", j.Status(), j.Err(), j.Counters())
	}
}

// TestSealIsAskedForAgain as soon as a worker says that it has sealed a rank
// that no report has told of.
func TestSealIsAskedForAgain(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	l := begin(t, j, cpu("a", 1, 1000))[0]
	seals := all[Seal](j.Step(t0, done(l)))
	if len(seals) != 1 {
		t.Fatalf("seals %v", seals)
	}
	if again := all[Seal](j.Step(t0, Holding{Worker: l.Ref.Worker})); len(again) != 0 {
		t.Errorf("asked again while it is sealed: %v", again)
	}
	if again := all[Seal](j.Step(t0, Holding{Worker: l.Ref.Worker, Sealed: []int{0}})); len(again) != 1 {
		t.Errorf("asked again: %v", again)
	}
	j.Step(t0, Sealed{seals[0].Hold, [16]byte{1}})
	if j.Status() != Ready {
		t.Error(j.Status())
	}
}

func TestRetriesAreCountedOnce(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	l := begin(t, j, cpu("a", 1, 1000))[0]
	cause := recovery.Errorf(recovery.Unavailable, "503")
	var events []string
	for _, failed := range []int{1, 1, 2, 1} {
		events = append(events, kinds(j.Step(t0, ChunkRetried{l.Ref, failed, cause}))...)
	}
	if j.Retries() != 2 || !slices.Equal(events, []string{"chunk_retry/a/-1/0", "chunk_retry/a/-1/0"}) {
		t.Errorf("%d retries, events %v", j.Retries(), events)
	}
}

// TestRetryBudget: a source that is down ends the job after as many tries as its
// budget allows, whatever each chunk may try; one that fails now and then does
// not; and what a lost peer causes costs nothing.
func TestRetryBudget(t *testing.T) {
	down := recovery.Errorf(recovery.Unavailable, "503")
	options := Options{RetryBudget: 5, Strategy: recovery.Retry(1000)}
	j := New(planOf(1, 40, everyone(1)), options)
	loads := begin(t, j, cpu("a", 1, 1000))
	for try := 1; try <= 5; try++ {
		if j.Step(t0, ChunkRetried{loads[0].Ref, try, down}); j.over() {
			t.Fatalf("over after %d tries: %v", try, j.Err())
		}
	}
	ends := all[End](j.Step(t0, ChunkRetried{loads[1].Ref, 1, down}))
	if len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.Unavailable || !strings.Contains(ends[0].Err.Error(), "budget of 5") {
		t.Errorf("ends %v", ends)
	}

	j = New(planOf(1, 40, everyone(1)), options)
	var retried int
	cmds := j.Start(t0, []WorkerUp{cpu("a", 1, 1000)})
	seen := obey(j, t0, cmds, func(c Command) bool {
		if l, is := c.(Load); is {
			retried++
			j.Step(t0, ChunkRetried{l.Ref, 1, down})
		}
		return false
	})
	if j.Status() != Ready || retried != 40 {
		t.Errorf("%s after %d retries: %v, %d commands", j.Status(), retried, j.Err(), len(seen))
	}

	j = New(planOf(2, 4, everyone(2)), options)
	loads = begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	for try := 1; try <= 20; try++ {
		j.Step(t0, ChunkRetried{loads[0].Ref, try, recovery.Errorf(recovery.Reset, "the other end is gone")})
	}
	if j.over() {
		t.Errorf("the loss of a peer ended it: %v", j.Err())
	}
}

// TestNothingIsReadAgainForASuspect: a read that failed is not tried again by
// its worker while a rank that it has a piece for is out of reach, whichever is
// heard first; it is made anew when that one is back.
func TestNothingIsReadAgainForASuspect(t *testing.T) {
	reset := recovery.Errorf(recovery.Reset, "connection refused")
	for _, suspectFirst := range []bool{true, false} {
		j := New(planOf(2, 1, everyone(2)), Options{})
		a, b := cpu("a", 1, 1000), cpu("b", 1, 1000)
		l := begin(t, j, a, b)[0]
		lost := b
		if l.Ref.Worker == b.Worker {
			lost = a
		}
		retried, suspected := Event(ChunkRetried{l.Ref, 1, reset}), Event(WorkerSuspect{lost.Worker, "reset"})
		first, second := retried, suspected
		if suspectFirst {
			first, second = suspected, retried
		}
		if cmds := j.Step(t0, first); len(all[Revoke](cmds)) > 0 {
			t.Errorf("suspect first %t: the first revokes it: %v", suspectFirst, cmds)
		}
		cmds := j.Step(t0, second)
		if r := all[Revoke](cmds); len(r) != 1 || r[0].Ref != l.Ref || len(all[Load](cmds)) > 0 {
			t.Errorf("suspect first %t: %v, want attempt 1 revoked and no other", suspectFirst, cmds)
		}
		if again := all[Load](obey(j, t0, j.Step(t0, lost), holdLoads)); len(again) != 1 || again[0].Ref.Attempt != 2 {
			t.Errorf("suspect first %t: back again, %v, want attempt 2", suspectFirst, again)
		}
	}
}

func TestDigestOfAPieceMayNotChange(t *testing.T) {
	j := New(planOf(1, 1, everyone(1)), Options{})
	w := Worker{"a", 1}
	l := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))[0]
	j.Step(t0, done(l))
	other := done(l)
	other.Pieces[0].Digest = [16]byte{99}
	if got := kinds(j.Step(t0, other)); !slices.Equal(got, []string{"chunk_failed/a/0/0"}) || j.over() {
		t.Errorf("a late report with another digest emits %v", got)
	}
	again := all[Load](obey(j, t0, j.Step(t0, WorkerLost{w, ""}), holdLoads))[0]
	bad := done(again)
	bad.Pieces[0].Digest = [16]byte{99}
	if ends := all[End](j.Step(t0, bad)); len(ends) != 1 || recovery.ClassOf(ends[0].Err) != recovery.DigestMismatch {
		t.Errorf("ends %v", ends)
	}
}

func TestSealFailureEndsTheJob(t *testing.T) {
	j := New(planOf(1, 0, nil), Options{})
	h := all[Place](j.Start(t0, []WorkerUp{cpu("a", 1, 1000)}))[0].Hold
	j.Step(t0, Placed{h})
	if ends := all[End](j.Step(t0, SealFailed{h, errors.New("x·Wᵀ differs")})); len(ends) != 1 || ends[0].State != Failed {
		t.Errorf("ends %v", ends)
	}
}

func TestCancelTakesEverythingBack(t *testing.T) {
	j := New(planOf(2, 10, everyone(2)), Options{})
	loads := begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 1000))
	cmds := j.Step(t0, Cancel{"by hand"})
	if len(all[Revoke](cmds)) != len(loads) || len(all[Free](cmds)) != 2 {
		t.Errorf("commands %v", cmds)
	}
	if end, is := cmds[len(cmds)-1].(End); !is || end.State != Cancelled || recovery.ClassOf(end.Err) != recovery.Cancelled {
		t.Errorf("the last command is %v", cmds[len(cmds)-1])
	}
	for _, e := range []Event{done(loads[0]), Cancel{}, Tick{}, cpu("c", 1, 1000), Accepted{loads[0].Ref}} {
		if more := j.Step(t0.Add(time.Hour), e); len(more) != 0 {
			t.Errorf("%T after the end: %v", e, more)
		}
	}
	if more := all[Free](j.Step(t0, Placed{loads[0].Dests[0]})); len(more) != 1 {
		t.Error("a late arena is not freed")
	}
}

func TestTries(t *testing.T) {
	cause := recovery.Errorf(recovery.Unavailable, "503")
	tries := Tries{Strategy: recovery.Retry(2)}
	for range 2 {
		if d, end := tries.Next(cause); end != nil || d <= 0 {
			t.Fatalf("delay %v, %v", d, end)
		}
	}
	if _, end := tries.Next(cause); end != error(cause) || tries.Failed() != 3 {
		t.Errorf("third failure: %v", end)
	}
	mended := 0
	tries = Tries{Strategy: recovery.RecoverWith(func(err error) error { mended++; return nil })}
	if _, end := tries.Next(recovery.Errorf(recovery.NotFound, "404")); end != nil || mended != 1 {
		t.Errorf("the handler mended %d times: %v", mended, end)
	}
	if _, end := (&Tries{}).Next(recovery.Errorf(recovery.NotFound, "404")); recovery.ClassOf(end) != recovery.NotFound {
		t.Errorf("gives up with %v", end)
	}
}

// TestFullMemoryOfTheFastest: what waits for a worker whose memory is full is
// taken by one that would have left it to it, as it reads more slowly.
func TestFullMemoryOfTheFastest(t *testing.T) {
	full := recovery.Errorf(recovery.OutOfCapacity, "map 1048576 bytes: cannot allocate memory")
	j := New(planOf(1, 40, everyone(1)), Options{Strategy: recovery.Retry(2)})
	now, of := t0, map[string][]Load{}
	note := func(loads []Load) {
		for _, l := range loads {
			of[l.Ref.Worker.Name] = append(of[l.Ref.Worker.Name], l)
		}
	}
	note(begin(t, j, cpu("a", 1, 1000), cpu("b", 1, 900)))
	for range 10 {
		now = now.Add(time.Millisecond)
		l := of["a"][0]
		of["a"] = of["a"][1:]
		note(all[Load](j.Step(now, done(l))))
	}
	for _, l := range of["a"] {
		note(all[Load](j.Step(now, ChunkFailed{l.Ref, 0, full})))
	}
	now = now.Add(time.Second)
	before := len(of["b"])
	for _, l := range of["b"] {
		note(all[Load](j.Step(now, done(l))))
	}
	if before == 0 || len(of["b"]) <= before {
		t.Errorf("b had %d chunks and has %d: it takes none of those of a", before, len(of["b"]))
	}
}

package telemetry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/progress"
)

func up(stage progress.Stage, bytes int64) report {
	return report{update: progress.Update{Job: "j", Worker: "w", Stage: stage, BytesDone: bytes}}
}

// TestPace feeds an update every millisecond of five seconds.
func TestPace(t *testing.T) {
	p := pace{}
	begin := time.Unix(1000, 0)
	var sent []report
	stages := 0
	for ms := range int64(5000) {
		now := begin.Add(time.Duration(ms) * time.Millisecond)
		stage := progress.Stages[ms/1000]
		if !p.add(now, up(stage, ms)) {
			t.Fatal("dropped")
		}
		out, _ := p.take(now, false)
		for _, r := range out {
			if len(sent) == 0 || r.update.Stage != sent[len(sent)-1].update.Stage {
				stages++
			}
			sent = append(sent, r)
		}
	}
	out, _ := p.take(begin.Add(5*time.Second), true)
	sent = append(sent, out...)
	if stages != len(progress.Stages) {
		t.Errorf("%d stages were told, want %d", stages, len(progress.Stages))
	}
	if limit := 5*4 + len(progress.Stages) + 1; len(sent) > limit || len(sent) < 20 {
		t.Errorf("%d were sent in 5 s, want 20 to %d", len(sent), limit)
	}
	for i, r := range sent {
		if r.update.Seq != uint64(i+1) {
			t.Fatalf("message %d has the sequence %d", i, r.update.Seq)
		}
		if i > 0 && r.update.BytesDone <= sent[i-1].update.BytesDone {
			t.Errorf("progress goes back: %d after %d", r.update.BytesDone, sent[i-1].update.BytesDone)
		}
	}
	if last := sent[len(sent)-1].update.BytesDone; last != 4999 {
		t.Errorf("the last report is %d, want the latest", last)
	}
}

// TestPaceKeepsStages: stages that pass faster than anybody asks are all told.
func TestPaceKeepsStages(t *testing.T) {
	p := pace{}
	now := time.Unix(1000, 0)
	for i, s := range progress.Stages {
		p.add(now, up(s, int64(2*i)))
		p.add(now, up(s, int64(2*i+1)))
	}
	out, again := p.take(now, false)
	var got []progress.Stage
	for _, r := range out {
		got = append(got, r.update.Stage)
	}
	if diff := cmp.Diff(progress.Stages, got); diff != "" {
		t.Error(diff)
	}
	if want := now.Add(interval); !again.Equal(want) {
		t.Errorf("look again at %v, want %v", again, want)
	}
	if out, _ := p.take(now.Add(interval), false); len(out) != 1 || out[0].update.BytesDone != 9 {
		t.Errorf("then %v", out)
	}
	if out, again := p.take(now.Add(2*interval), false); len(out) != 0 || !again.IsZero() {
		t.Errorf("then %v, %v", out, again)
	}
	p.take(now.Add(2*forget), false)
	if len(p) != 0 {
		t.Error("a silent job is kept forever")
	}
}

func TestPaceIsBounded(t *testing.T) {
	p := pace{}
	dropped := 0
	for i := range 100 {
		if !p.add(time.Unix(1000, 0), up(progress.Stages[i%2], int64(i))) {
			dropped++
		}
	}
	out, _ := p.take(time.Unix(1000, 0), true)
	if len(out) != maxWaiting || dropped != 100-maxWaiting || out[len(out)-1].update.BytesDone != 99 {
		t.Errorf("%d sent, %d dropped, last %d", len(out), dropped, out[len(out)-1].update.BytesDone)
	}
}

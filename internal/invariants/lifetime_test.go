package invariants

import "testing"

func TestLifetime(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return false
	}
	var l Lifetime
	if panics(func() { l.Use("it"); l.Close("it") }) {
		t.Fatal("a use and the first close panicked")
	}
	if got := panics(func() { l.Use("it") }); got != Enabled {
		t.Errorf("use after close panicked: %v, want %v", got, Enabled)
	}
	if got := panics(func() { l.Close("it") }); got != Enabled {
		t.Errorf("second close panicked: %v, want %v", got, Enabled)
	}
	if panics(func() { Check(true, "it holds") }) {
		t.Error("what holds panicked")
	}
	if got := panics(func() { Check(false, "it is %d", 1) }); got != Enabled {
		t.Errorf("what does not hold panicked: %v, want %v", got, Enabled)
	}
}

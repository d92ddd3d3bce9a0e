package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

func sixteen(t *testing.T) (source.Source, func(s source.Source, off, n int64) ([]byte, error)) {
	t.Helper()
	dir := tree(t, map[string]string{"a": "0123456789abcdef", "b": "0123456789abcdef"})
	read := func(s source.Source, off, n int64) ([]byte, error) {
		r, err := s.Open(context.Background(), "a")
		if err != nil {
			return nil, err
		}
		defer r.Close()
		p := make([]byte, n)
		return p, r.ReadAt(context.Background(), p, off)
	}
	s := open(t, dir, source.Options{})
	t.Cleanup(func() { s.Close() })
	return s, read
}

// TestInject applies each action, and counts.
func TestInject(t *testing.T) {
	bare, read := sixteen(t)
	f := faults(t, `
		read a [4,8) fail unavailable times=2; read b fail reset # never read
		read * [12,14) corrupt after=1
	`)
	s := source.Inject(bare, f)
	for i, c := range []struct {
		off, n int64
		want   string // bytes or class
	}{
		{0, 4, "0123"},
		{8, 4, "89ab"},
		{0, 5, "unavailable"},
		{7, 9, "unavailable"},
		{4, 4, "4567"}, // the third time it works
		{10, 4, "abcd"},
		{10, 4, "ab\x9c\x9b"},
		{13, 1, "\x9b"},
	} {
		p, err := read(s, c.off, c.n)
		got := string(p)
		if err != nil {
			got = string(recovery.ClassOf(err))
		}
		if got != c.want {
			t.Errorf("read %d: got %q (%v), want %q", i, got, err, c.want)
		}
	}
	want := []source.Hit{{Rule: "read a [4,8) fail unavailable times=2", Hits: 2}, {Rule: "read b fail reset"}, {Rule: "read * [12,14) corrupt after=1", Hits: 2}}
	if diff := cmp.Diff(want, f.Hits()); diff != "" {
		t.Error(diff)
	}
}

func TestInjectOpenAndList(t *testing.T) {
	bare, _ := sixteen(t)
	s := source.Inject(bare, faults(t, "open b fail not_found; list * fail timeout times=1"))
	if _, err := s.Open(context.Background(), "b"); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("open b: %v", err)
	}
	if _, err := s.Files(context.Background()); recovery.ClassOf(err) != recovery.Timeout {
		t.Errorf("list: %v", err)
	}
	if _, err := s.Files(context.Background()); err != nil {
		t.Errorf("list again: %v", err)
	}
}

// TestInjectWaits gives up a read that is held, and only then.
func TestInjectWaits(t *testing.T) {
	bare, _ := sixteen(t)
	for _, rules := range []string{"read * block", "read * delay 1h"} {
		s := source.Inject(bare, faults(t, rules))
		r, err := s.Open(context.Background(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.ReadAt(ctx, make([]byte, 1), 0) }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", rules, err)
		}
		r.Close()
	}
}

// TestParseFaults refuses what is no rule.
func TestParseFaults(t *testing.T) {
	for _, text := range []string{
		"write * fail reset", "read", "read [ fail reset", "read * explode", "read * fail", "read * fail sometimes",
		"read * delay", "read * delay -1s", "read * [5,5) fail reset", "read * [a,b) fail reset", "read * [1,2] fail reset",
		"read * [-1,2) fail reset", "open * [1,2) fail reset", "open * corrupt", "read * fail reset times", "read * fail reset times=-1",
		"read * fail reset often=2", "read * delay 1ms; bad",
	} {
		if _, err := source.ParseFaults(text); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%q: got %v, want a usage error", text, err)
		}
	}
	for _, text := range []string{"", "# nothing", "\n;;\n"} {
		if f, err := source.ParseFaults(text); err != nil || len(f.Hits()) != 0 {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
}

func FuzzParseFaults(f *testing.F) {
	f.Add("read model-00001*.safetensors [4096,8192) fail unavailable times=2; open x delay 5ms # so")
	f.Fuzz(func(t *testing.T, text string) {
		faults, err := source.ParseFaults(text)
		if err != nil {
			return
		}
		for _, h := range faults.Hits() {
			if again, err := source.ParseFaults(h.Rule); err != nil || len(again.Hits()) != 1 {
				t.Errorf("%q is read as %q, which is refused: %v", text, h.Rule, err)
			}
		}
	})
}

// TestLimit reads at the rate and not above, and waits in pieces.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("x"), 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	bare := open(t, dir, source.Options{})
	defer bare.Close()
	if source.Limit(bare, 0) != bare {
		t.Error("no limit is not the source itself")
	}
	s := source.Limit(bare, 32<<20)
	r, err := s.Open(context.Background(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	start := time.Now()
	p := make([]byte, len(data))
	if err := r.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, data) {
		t.Fatalf("read failed or gave wrong bytes: %v", err)
	}
	// 4 MiB less a burst of 1 MiB at 32 MiB/s.
	if took := time.Since(start); took < 90*time.Millisecond {
		t.Errorf("took %v, less than the limit allows", took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := r.ReadAt(ctx, p, 0); recovery.ClassOf(err) != recovery.Timeout {
		t.Errorf("a deadline that cannot be met: %v", err)
	}
}

// TestObserve tells of each operation once, with what it read or why it
// failed.
func TestObserve(t *testing.T) {
	bare, _ := sixteen(t)
	var told []string
	s := source.Observe(source.Inject(bare, faults(t, "read a [8,9) fail reset")), func(_ context.Context, o source.Operation) {
		if o.Took < 0 {
			t.Errorf("%+v took less than nothing", o)
		}
		told = append(told, fmt.Sprintf("%s %s %d %s", o.Op, o.File, o.Bytes, o.Class))
	})
	ctx := context.Background()
	if _, err := s.Files(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := make([]byte, 4)
	for _, off := range []int64{0, 6} {
		if err := r.ReadAt(ctx, p, off); (err != nil) != (off == 6) {
			t.Errorf("read at %d: %v", off, err)
		}
		stream, err := source.Stream(ctx, r, off, 8)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(stream, p[:2])
		if err == nil {
			_, err = io.ReadFull(stream, p)
		}
		if (err != nil) != (off == 6) {
			t.Errorf("stream at %d: %v", off, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Open(ctx, "missing"); err == nil {
		t.Error("opened what is not there")
	}
	want := []string{"list  0 ", "open a 0 ", "read a 4 ", "stream a 6 ", "read a 0 reset", "stream a 2 reset", "open missing 0 not_found"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestCount(t *testing.T) {
	bare, read := sixteen(t)
	var c source.Counter
	s := source.Count(bare, &c)
	for range 3 {
		if _, err := read(s, 4, 5); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(s, 14, 5); err == nil {
		t.Fatal("read past the end")
	}
	if c.Opens.Load() != 4 || c.Reads.Load() != 3 || c.Bytes.Load() != 15 {
		t.Errorf("counted %d opens, %d reads, %d bytes", c.Opens.Load(), c.Reads.Load(), c.Bytes.Load())
	}
}

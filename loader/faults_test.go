package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/progress"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
	"github.com/gantry-ml/gantry/source"
)

// faulty opens sources that fail as the rules say. reading, where set, hears
// of the first read.
func faulty(t testing.TB, rules string, reading chan struct{}) func(context.Context, string, recovery.Strategy) (source.Source, error) {
	t.Helper()
	f, err := source.ParseFaults(rules)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
		s, err := source.Open(ctx, uri, source.Options{})
		if err != nil {
			return nil, err
		}
		s = source.Inject(s, f)
		if reading != nil {
			s = watched{s, reading}
		}
		return s, nil
	}
}

// watched tells of reads before they begin.
type watched struct {
	source.Source
	reading chan struct{}
}

type watchedReader struct {
	source.Reader
	reading chan struct{}
}

func (w watched) Open(ctx context.Context, name string) (source.Reader, error) {
	r, err := w.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return watchedReader{r, w.reading}, nil
}

func (w watchedReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	select {
	case w.reading <- struct{}{}:
	default:
	}
	return w.Reader.ReadAt(ctx, p, off)
}

// withOpen and withChunks set what only tests set.
func withOpen(open func(context.Context, string, recovery.Strategy) (source.Source, error)) Option {
	return func(o *options) { o.open = open }
}

func withChunks(bytes int64) Option { return func(o *options) { o.chunkBytes = bytes } }

// find returns a tensor of a checkpoint.
func find(t testing.TB, ix *checkpoint.Index, name string) checkpoint.Tensor {
	t.Helper()
	for _, x := range ix.Tensors {
		if x.Name == name {
			return x
		}
	}
	t.Fatalf("no tensor %q", name)
	return checkpoint.Tensor{}
}

const gate = "model.layers.3.mlp.gate_proj.weight"

// quick is a strategy that does not wait long.
func quick(s recovery.Strategy) Option {
	s.Backoff = recovery.Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond}
	return WithRecovery(s)
}

func TestReadFailsTwiceThenWorks(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	x := find(t, ix, gate)
	rule := fmt.Sprintf("read * [%d,%d) fail unavailable times=2", x.Offset, x.Offset+1)
	m := load(t, path, withOpen(faulty(t, rule, nil)), withChunks(64<<10), quick(recovery.Recover()), WithLayout(shard.Layout{TP: 2}))
	rep := m.Report()
	if rep.Retries != 2 || rep.BytesPlaced == 0 || rep.ReadAmplification() < 1 {
		t.Errorf("retries %d, read amplification %g", rep.Retries, rep.ReadAmplification())
	}
	clean := load(t, path, WithLayout(shard.Layout{TP: 2}), withChunks(64<<10)).Report()
	if clean.Retries != 0 || clean.ReadAmplification() != 1 || clean.Ranks[1].Digest != rep.Ranks[1].Digest {
		t.Errorf("without faults: retries %d, read amplification %g, digest %x, with them %x",
			clean.Retries, clean.ReadAmplification(), clean.Ranks[1].Digest, rep.Ranks[1].Digest)
	}
}

// What always fails ends the load with one line that says where.
func TestReadAlwaysFails(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	x := find(t, ix, gate)
	rule := fmt.Sprintf("read * [%d,%d) fail unavailable", x.Offset, x.Offset+1)
	for _, s := range []recovery.Strategy{recovery.FailFast(), recovery.Retry(2), recovery.Recover()} {
		_, err := New(withOpen(faulty(t, rule, nil)), withChunks(64<<10), quick(s)).Load(t.Context(), path)
		var e *recovery.Error
		if !errors.As(err, &e) || e.Class != recovery.Unavailable {
			t.Fatalf("%v: %v", s, err)
		}
		line := err.Error()
		if strings.Contains(line, "\n") || !strings.Contains(line, "model.safetensors") || !strings.Contains(line, gate) ||
			!strings.Contains(line, fmt.Sprintf("bytes [%d, ", x.Offset)) || strings.Count(line, "model.safetensors") != 1 {
			t.Errorf("%v: %q does not name file, tensor and bytes once", s, line)
		}
	}
}

// A user's function may mend what the strategy would give up on.
func TestRecoverWith(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	x := find(t, ix, gate)
	rule := fmt.Sprintf("read * [%d,%d) fail not_allowed times=1", x.Offset, x.Offset+1)
	var asked error
	mend := recovery.RecoverWith(func(err error) error { asked = err; return nil })
	m := load(t, path, withOpen(faulty(t, rule, nil)), quick(mend))
	if recovery.ClassOf(asked) != recovery.NotAllowed || m.Report().Retries != 1 {
		t.Errorf("asked about %v, retries %d", asked, m.Report().Retries)
	}
}

func TestCancelDuringRead(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	_, ix := open(t, path)
	x := find(t, ix, gate)
	reading := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reading
		cancel()
	}()
	rule := fmt.Sprintf("read * [%d,%d) block", x.Offset, x.Offset+1)
	_, err := New(withOpen(faulty(t, rule, reading))).Load(ctx, path)
	if recovery.ClassOf(err) != recovery.Cancelled {
		t.Errorf("cancelled load: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = New(withOpen(faulty(t, rule, nil))).Load(ctx, path)
	if recovery.ClassOf(err) != recovery.Timeout {
		t.Errorf("load past its deadline: %v", err)
	}
}

// copyOf returns a copy of a checkpoint that a test may damage.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(to, "model.safetensors")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// shrinking is a source of mapped files that are cut short between the moment
// a range is given out and the moment it is read.
type shrinking struct {
	source.Source
	path string
}

type shrinkingReader struct {
	source.Mapper
	path string
}

func (s shrinking) Open(ctx context.Context, name string) (source.Reader, error) {
	r, err := s.Source.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return shrinkingReader{r.(source.Mapper), s.path}, nil
}

func (r shrinkingReader) Range(off, n int64) ([]byte, error) {
	b, err := r.Mapper.Range(off, n)
	if err != nil {
		return nil, err
	}
	return b, os.Truncate(r.path, 4096)
}

// A file that is cut short or replaced while it is loaded is an error of its
// own class, however it is read; never a crash, never a mixture.
func TestFileChangesDuringLoad(t *testing.T) {
	from := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	opener := func(mode source.Mode) func(context.Context, string, recovery.Strategy) (source.Source, error) {
		return func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
			return source.Open(ctx, uri, source.Options{Mode: mode})
		}
	}
	for name, c := range map[string]struct {
		mode   source.Mode
		change func(file string) error
		fault  bool
	}{
		"cut short, pread":  {source.ModePread, func(f string) error { return os.Truncate(f, 4096) }, false},
		"cut short, mmap":   {source.ModeMmap, func(f string) error { return os.Truncate(f, 4096) }, false},
		"access fault":      {source.ModeMmap, func(string) error { return nil }, true},
		"written to, pread": {source.ModePread, func(f string) error { return os.Chtimes(f, time.Time{}, time.Unix(1, 0)) }, false},
		"written to, mmap":  {source.ModeMmap, func(f string) error { return os.Chtimes(f, time.Time{}, time.Unix(1, 0)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, from)
			file := filepath.Join(dir, "model.safetensors")
			_, ix := open(t, dir)
			plan := build(t, ix, shard.Options{ChunkBytes: 64 << 10})
			o := NodeOptions{Open: opener(c.mode)}
			if c.fault {
				o.Open = func(ctx context.Context, uri string, _ recovery.Strategy) (source.Source, error) {
					s, err := source.Open(ctx, uri, source.Options{Mode: source.ModeMmap})
					return shrinking{s, file}, err
				}
			}
			m := newTeam(t, dir, plan, 1, o)
			if err := c.change(file); err != nil {
				t.Fatal(err)
			}
			last := len(plan.Chunks) - 1
			_, _, err := m.nodes[0].Load(t.Context(), "j", job.Ref{Chunk: last, Attempt: 1}, m.dests(last, 0))
			if recovery.ClassOf(err) != recovery.SourceChanged {
				t.Errorf("%v", err)
			}
		})
	}
}

// A panic that is no access fault of the mapping goes on.
func TestOnFaultHidesNoBug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a bug was taken for a changed file")
		}
	}()
	var m map[string]int
	_ = onFault(make([]byte, 10), func() { m["x"] = 1 })
}

// However large the checkpoint, staging stays within its budget; a budget
// that cannot hold a row's work is refused by name.
func TestStagingIsBounded(t *testing.T) {
	dir := synth(t, 2)
	_, ix := open(t, dir)
	for _, scheme := range []string{"none", "f32", "int8", "q8_0"} {
		m := load(t, dir, WithStaging(2<<20), WithLayout(shard.Layout{TP: 2}), WithQuantization(quant.Config{Scheme: scheme}))
		if peak := m.Report().PeakStaging; peak == 0 || peak > 2<<20 {
			t.Errorf("%s: peak staging %d", scheme, peak)
		}
	}
	_, err := New(WithStaging(64<<10), WithLayout(shard.Layout{TP: 2})).Load(t.Context(), dir)
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(fmt.Sprint(err), "staging") {
		t.Errorf("64 KiB of staging: %v", err)
	}
	// Pieces for another node are whole in staging before they are sent.
	const budget = 24 << 20
	plan := build(t, ix, shard.Options{Layout: shard.Layout{TP: 4}, Scheme: "f16"})
	team := newTeam(t, dir, plan, 3, NodeOptions{Staging: budget})
	team.load(t.Context())
	for i, n := range team.nodes {
		if peak := n.PeakStaging(); peak > budget {
			t.Errorf("node %d used %d bytes", i, peak)
		}
	}
}

func TestLimitRate(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	begun := time.Now()
	// A burst of 512 KiB is free, the other half of the file takes a second.
	m := load(t, path, WithLimitRate(512<<10), withChunks(64<<10))
	if s := time.Since(begun).Seconds(); s < 0.9 || m.Report().ReadAmplification() != 1 {
		t.Errorf("%.2f s, read amplification %g", s, m.Report().ReadAmplification())
	}
}

func TestOptionsAreChecked(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-f32")
	for name, o := range map[string][]Option{
		"unknown scheme":   {WithQuantization(quant.Config{Scheme: "q9"})},
		"cast and scheme":  {WithQuantization(quant.Config{Scheme: "int8"}), WithDType(dtype.F16)},
		"cast to integers": {WithDType(dtype.I32)},
		"negative staging": {WithStaging(-1)},
		"impossible tp":    {WithLayout(shard.Layout{TP: 3})},
	} {
		if _, err := New(o...).Load(t.Context(), path); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New().Load(t.Context(), filepath.Join(path, "missing")); recovery.ClassOf(err) != recovery.NotFound {
		t.Errorf("missing path: %v", err)
	}
}

// Updates come in order, name every stage, never go back and end with 1.
func TestProgressOfLoad(t *testing.T) {
	path := filepath.Join(testdata(t, "stories260K"), "hf-sharded")
	var seen []progress.Update
	l := New(WithProgress(func(u progress.Update) { seen = append(seen, u) }), WithName("tale"), withChunks(64<<10))
	if u := l.Progress(); u.Stage != progress.Initializing || u.Overall != 0 {
		t.Errorf("before a load: %+v", u)
	}
	m, err := l.Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if len(seen) < 3 || seen[0].Stage != progress.Initializing || seen[0].Model != "tale" {
		t.Fatalf("%d updates, the first %+v", len(seen), seen[0])
	}
	for i := 1; i < len(seen); i++ {
		if seen[i].Overall < seen[i-1].Overall || seen[i].Seq <= seen[i-1].Seq {
			t.Errorf("update %d goes back: %+v after %+v", i, seen[i], seen[i-1])
		}
	}
	if last := seen[len(seen)-1]; last.Stage != progress.Completed || last.Overall != 1 || last != l.Progress() {
		t.Errorf("last update %+v, progress %+v", last, l.Progress())
	}
	if m.Metadata().Name != "tale" || m.Report().Seconds <= 0 || len(m.Report().Stages) == 0 {
		t.Errorf("report %+v", m.Report())
	}
}

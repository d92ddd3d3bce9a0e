package actors

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

// resident loads a model of two ranks over two workers.
func resident(t *testing.T, w *world) (writer, other *fakeNode) {
	t.Helper()
	q := request("a")
	q.Options.Layout.TP = 2
	j := w.load(q)
	if j.State != messages.StateReady || j.Ranks[0].Worker == j.Ranks[1].Worker {
		t.Fatalf("%+v", j)
	}
	byName := map[string]*fakeNode{}
	for i, m := range w.members {
		byName[m.Name] = w.nodes[i]
	}
	return byName[j.Ranks[0].Worker], byName[j.Ranks[1].Worker]
}

// exported asks until an export has ended.
func (w *world) exported(q messages.ExportRequest) (x messages.Export) {
	w.t.Helper()
	w.until("the export has ended", func() bool {
		var err error
		if x, err = w.co.Export(w.t.Context(), q); err != nil {
			w.t.Fatal(err)
		}
		return x.State.Final()
	})
	return x
}

// TestExport: the worker of the first rank writes the model, with the other
// rank from a dump, which is removed then.
func TestExport(t *testing.T) {
	w := newWorld(t, 2)
	writer, other := resident(t, w)
	q := messages.ExportRequest{Export: "x1", Name: "m-a", Path: "/models/../models/out"}
	x := w.exported(q)
	if x.State != messages.StateReady || x.Model != "m-a" || x.Path != "/models/out" || len(x.Warnings) != 1 || x.Seconds <= 0 {
		t.Errorf("%+v", x)
	}
	writer.mu.Lock()
	specs := writer.exported
	writer.mu.Unlock()
	if len(specs) != 1 || specs[0].Path != "/models/out" || specs[0].Name != "m-a" || len(specs[0].Index.Tensors) != w.tensors {
		t.Fatalf("written: %+v", specs)
	}
	d := specs[0].Dumps
	if len(d) != 1 || d[0].Rank != 1 || d[0].Digest != [16]byte{2} || !strings.HasPrefix(d[0].Path, "/models/out/.gantry-x1") {
		t.Errorf("dumps %+v", d)
	}
	w.until("the dump is removed", func() bool { return len(other.dumps()) == 0 })
	writer.mu.Lock()
	if !slices.Contains(writer.removed, d[0].Path) {
		t.Error("the writer leaves the dump to a worker that may be gone")
	}
	writer.mu.Unlock()
	if again := w.exported(q); again.State != messages.StateReady || len(writer.exported) != 1 {
		t.Errorf("the same export again: %+v, written %d times", again, len(writer.exported))
	}
	for _, c := range []struct {
		q    messages.ExportRequest
		want recovery.Class
	}{
		{messages.ExportRequest{Export: "x2", Name: "nobody", Path: "/x"}, recovery.NotFound},
		{messages.ExportRequest{Export: "x2", Name: "m-a", Path: "x"}, recovery.Usage},
		{messages.ExportRequest{Export: "", Name: "m-a", Path: "/x"}, recovery.Usage},
	} {
		if _, err := w.co.Export(t.Context(), c.q); recovery.ClassOf(err) != c.want {
			t.Errorf("%+v: %v, want %s", c.q, err, c.want)
		}
	}
}

// TestExportFails: why a worker could not write is the export's outcome, and
// nothing is left of it.
func TestExportFails(t *testing.T) {
	w := newWorld(t, 2)
	writer, other := resident(t, w)
	writer.mu.Lock()
	writer.exportErr = recovery.Errorf(recovery.NotAllowed, "not in this folder")
	writer.mu.Unlock()
	x := w.exported(messages.ExportRequest{Export: "x1", Name: "m-a", Path: "/models/m.gguf"})
	if x.State != messages.StateFailed || x.Class != recovery.NotAllowed || !strings.Contains(x.Why, "not in this folder") {
		t.Errorf("%+v", x)
	}
	w.until("the dump is removed", func() bool { return len(other.dumps()) == 0 })
	other.mu.Lock()
	other.dump = func(context.Context) error { return errors.New("the disk is full") }
	other.mu.Unlock()
	x = w.exported(messages.ExportRequest{Export: "x2", Name: "m-a", Path: "/models/m.gguf"})
	if x.State != messages.StateFailed || !strings.Contains(x.Why, "disk is full") {
		t.Errorf("%+v", x)
	}
	writer.mu.Lock()
	defer writer.mu.Unlock()
	if len(writer.exported) != 1 {
		t.Errorf("written %d times, although a rank is missing", len(writer.exported))
	}
}

// TestExportIsRefused: what the writer refuses is refused before another worker
// dumps a rank; a dump that failed is not removed, since it left nothing.
func TestExportIsRefused(t *testing.T) {
	w := newWorld(t, 2)
	writer, other := resident(t, w)
	writer.mu.Lock()
	writer.checkErr = recovery.Errorf(recovery.Usage, "no layout for q8_0")
	writer.mu.Unlock()
	other.mu.Lock()
	other.dump = func(context.Context) error { return recovery.Errorf(recovery.NotAllowed, "not in this folder") }
	other.mu.Unlock()
	x := w.exported(messages.ExportRequest{Export: "x1", Name: "m-a", Path: "/models/out"})
	if x.State != messages.StateFailed || x.Class != recovery.Usage {
		t.Errorf("%+v", x)
	}
	writer.mu.Lock()
	writer.checkErr = nil
	writer.mu.Unlock()
	x = w.exported(messages.ExportRequest{Export: "x2", Name: "m-a", Path: "/models/out"})
	if x.State != messages.StateFailed || x.Class != recovery.NotAllowed {
		t.Errorf("%+v", x)
	}
	// An export after those has its dump removed: what ended them was heard.
	other.mu.Lock()
	other.dump = nil
	other.mu.Unlock()
	if x = w.exported(messages.ExportRequest{Export: "x3", Name: "m-a", Path: "/models/out"}); x.State != messages.StateReady {
		t.Errorf("%+v", x)
	}
	w.until("the dump is removed", func() bool { return len(other.dumps()) == 0 })
	other.mu.Lock()
	defer other.mu.Unlock()
	if len(other.removed) != 1 || !strings.Contains(other.removed[0], "x3") || !slices.Equal(writer.removed, other.removed) {
		t.Errorf("removed %q and %q", other.removed, writer.removed)
	}
}

// TestUnloadEndsExport: a model that is unloaded while it is dumped is no
// longer exported, and the unload does not wait for the rest of the dump.
func TestUnloadEndsExport(t *testing.T) {
	w := newWorld(t, 2)
	_, other := resident(t, w)
	dumping := make(chan struct{})
	other.mu.Lock()
	other.dump = func(ctx context.Context) error {
		close(dumping)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	other.mu.Unlock()
	q := messages.ExportRequest{Export: "x1", Name: "m-a", Path: "/models/out"}
	if _, err := w.co.Export(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	<-dumping
	if _, err := w.co.Unload(t.Context(), messages.ModelRequest{Name: "m-a"}); err != nil {
		t.Fatal(err)
	}
	if x := w.exported(q); x.State != messages.StateFailed {
		t.Errorf("%+v", x)
	}
}

package cluster

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/recovery"
)

func someJob(id string) messages.Job {
	return messages.Job{Job: id, Model: "m", State: messages.StateLoading, Submitted: time.Unix(1, 0).UTC(), Ranks: []messages.Rank{{Rank: 0, Worker: "w"}}}
}

func TestJobs(t *testing.T) {
	c := open(t, startServer(t, ServerOptions{}), Options{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	j := someJob("j1")
	versions, err := c.Jobs.Watch(ctx, "j1")
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Jobs.Put(ctx, j, 0)
	if err != nil {
		t.Fatal(err)
	}
	if r := receive(t, versions); r.Revision != first {
		t.Errorf("watch saw revision %d, want %d", r.Revision, first)
	}
	_, err = c.Jobs.Put(ctx, j, 0)
	wantClass(t, err, recovery.Stale)

	j.State = messages.StateSealing
	second, err := c.Jobs.Put(ctx, j, first)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Jobs.Put(ctx, someJob("j1"), first)
	wantClass(t, err, recovery.Stale)
	if r := receive(t, versions); r.Value.State != messages.StateSealing {
		t.Errorf("watch saw %s", r.Value.State)
	}

	got, err := c.Jobs.Get(ctx, "j1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Record[messages.Job]{j, second}, got); diff != "" {
		t.Error(diff)
	}
	_, err = c.Jobs.Get(ctx, "none")
	wantClass(t, err, recovery.NotFound)

	if _, err := c.Jobs.Put(ctx, someJob("j2"), 0); err != nil {
		t.Fatal(err)
	}
	wantClass(t, c.Jobs.Delete(ctx, "j1", first), recovery.Stale)
	if err := c.Jobs.Delete(ctx, "j1", second); err != nil {
		t.Fatal(err)
	}
	all, err := c.Jobs.List(ctx)
	if err != nil || len(all) != 1 || all[0].Value.Job != "j2" {
		t.Errorf("list: %v, %v", all, err)
	}
	stop()
	for range versions { // closed when the context ends
	}
}

// TestModelNames: a model may have any name; it is data, not a key.
func TestModelNames(t *testing.T) {
	c := open(t, startServer(t, ServerOptions{}), Options{})
	names := []string{"Llama-3.2-1B", "Llama-3_2-1B", "a/b", "a b", "模型", "*", ">"}
	for _, n := range names {
		if _, err := c.Models.Put(t.Context(), messages.Model{Name: n}, 0); err != nil {
			t.Fatalf("%q: %v", n, err)
		}
	}
	for _, n := range names {
		r, err := c.Models.Get(t.Context(), n)
		if err != nil || r.Value.Name != n {
			t.Errorf("%q: got %q, %v", n, r.Value.Name, err)
		}
		if err := c.Models.Delete(t.Context(), n, r.Revision); err != nil {
			t.Error(err)
		}
	}
}

func TestPlans(t *testing.T) {
	c := open(t, startServer(t, ServerOptions{}), Options{})
	ix := &checkpoint.Index{Format: "safetensors", Tensors: []checkpoint.Tensor{{Name: "a", DType: dtype.F32, Shape: []int64{2, 3}, Bytes: 24}}}
	digest, err := c.Plans.PutIndex(t.Context(), ix)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Plans.PutIndex(t.Context(), ix)
	if err != nil || again != digest {
		t.Fatalf("again: %s, %v, want %s", again, err, digest)
	}
	got, err := c.Plans.Index(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ix, got); diff != "" {
		t.Error(diff)
	}
	_, err = c.Plans.Get(t.Context(), "00")
	wantClass(t, err, recovery.NotFound)
	if _, err := c.Plans.objects.PutBytes(t.Context(), digest, []byte("forged")); err != nil {
		t.Fatal(err)
	}
	_, err = c.Plans.Index(t.Context(), digest)
	wantClass(t, err, recovery.DigestMismatch)
}

// TestPlansPutTwice: a document that is put by several at once, and read all the
// while, is there for each reader.
func TestPlansPutTwice(t *testing.T) {
	s := startServer(t, ServerOptions{})
	data := bytes.Repeat([]byte("plan "), 200_000)
	digest, err := open(t, s, Options{}).Plans.Put(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 {
		writer, reader := open(t, s, Options{}).Plans, open(t, s, Options{}).Plans
		all.Go(func() {
			for range 5 {
				if _, err := writer.objects.PutBytes(t.Context(), digest, data); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 5 {
				if got, err := reader.Get(t.Context(), digest); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
	all.Wait()
}

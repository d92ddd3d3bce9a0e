package integration

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/shard"
)

var (
	bin     string // folder of the commands
	scratch string // folder of what several tests use
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getenv(natsProcess) != "" {
			return serveNATS()
		}
		dir, done, err := Build()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer done()
		bin = dir
		if scratch, err = os.MkdirTemp("", "gantry-models-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		// The binaries lie in a temporary folder, away from what make ort fetched.
		lib, err := ort.Find()
		if err == nil {
			err = os.Setenv("GANTRY_ORT_LIB", lib)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// stories is a load of a variant of the trained test model.
func stories(t *testing.T, variant, id string, tp int) messages.LoadRequest {
	return messages.LoadRequest{
		Job: id, Name: "m-" + id, URI: filepath.Join(Testdata(t), "stories260K", variant),
		Options: shard.Options{Layout: shard.Layout{TP: tp}},
	}
}

// TestLoadAcrossWorkers: the trained model, in every form and layout, over one
// and over three processes, ends in the same bytes: each rank's digest is the
// one that the library's Loader gives, whose ranks its own tests join and hold
// against the files.
func TestLoadAcrossWorkers(t *testing.T) {
	digests := map[string][]string{} // of the library's ranks, by form, tp and scheme
	for _, workers := range []int{1, 3} {
		c := StartCluster(t, bin, workers)
		for _, variant := range []string{"hf-f32", "hf-bf16", "hf-f16", "hf-sharded"} {
			for _, tp := range []int{1, 2, 4} {
				for _, scheme := range []string{"none", "f16", "int8", "q8_0"} {
					id := fmt.Sprintf("%s-tp%d-%s", variant, tp, scheme)
					q := stories(t, variant, id, tp)
					q.Options.Scheme, q.Once = scheme, true
					if digests[id] == nil {
						digests[id] = alone(t, q)
					}
					j := c.Load(q)
					if j.State != messages.StateReady {
						t.Fatalf("%s over %d workers: %s: %s", id, workers, j.State, j.Why)
					}
					if j.ReadAmplification != 1 || j.Retries != 0 || j.Validation.State != "passed" {
						t.Errorf("%s over %d workers: amplification %g, %d retries, validation %+v", id, workers, j.ReadAmplification, j.Retries, j.Validation)
					}
					var got []string
					for _, r := range j.Ranks {
						got = append(got, r.Digest)
					}
					if !slices.Equal(got, digests[id]) {
						t.Errorf("%s over %d workers: digests %v, alone %v", id, workers, got, digests[id])
					}
				}
			}
		}
	}
}

// alone loads with the library, in this process, and returns the ranks'
// digests.
func alone(t *testing.T, q messages.LoadRequest) (digests []string) {
	t.Helper()
	m, err := loader.New(loader.WithLayout(q.Options.Layout), loader.WithRules(q.Options.Rules...), loader.WithPadVocab(q.Options.PadVocab),
		loader.WithQuantization(quant.Config{Scheme: q.Options.Scheme})).Load(t.Context(), q.URI)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, r := range m.Ranks() {
		digests = append(digests, hex.EncodeToString(r.Digest[:]))
	}
	return digests
}

// TestModelsStay: what is loaded stays resident until it is unloaded.
func TestModelsStay(t *testing.T) {
	c := StartCluster(t, bin, 2)
	for _, tp := range []int{1, 2, 4} {
		if j := c.Load(stories(t, "hf-f32", fmt.Sprintf("tp%d", tp), tp)); j.State != messages.StateReady {
			t.Fatalf("tp %d: %s: %s", tp, j.State, j.Why)
		}
	}
	if models, err := c.Client.Models(context.Background()); err != nil || len(models) != 3 {
		t.Errorf("%d models, %v", len(models), err)
	}
}

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/messages"
	"github.com/gantry-ml/gantry/shard"
)

var bin string // folder of the commands

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, done, err := Build()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer done()
		bin = dir
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

func TestLoadAcrossWorkers(t *testing.T) {
	for _, workers := range []int{1, 3} {
		c := StartCluster(t, bin, workers)
		for _, tp := range []int{1, 2, 4} {
			j := c.Load(stories(t, "hf-f32", fmt.Sprintf("tp%d", tp), tp))
			if j.State != messages.StateReady {
				t.Fatalf("%d workers, tp %d: %s: %s", workers, tp, j.State, j.Why)
			}
			if j.ReadAmplification != 1 || j.Retries != 0 || len(j.Ranks) != tp {
				t.Errorf("%d workers, tp %d: amplification %g, %d retries, %d ranks", workers, tp, j.ReadAmplification, j.Retries, len(j.Ranks))
			}
		}
		if models, err := c.Client.Models(context.Background()); err != nil || len(models) != 3 {
			t.Errorf("%d models, %v", len(models), err)
		}
	}
}

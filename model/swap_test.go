package model_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
)

// Readers always see one whole model, old or new, never one that was closed.
func TestSwapUnderReaders(t *testing.T) {
	path := stories(t, "hf-f32")
	s := model.NewSwap(load(t, path, "none", 1))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				m, release, err := s.Acquire()
				if err != nil {
					t.Error(err)
					return
				}
				x, err := m.Vars().Tensor("model.norm.weight")
				if err != nil {
					t.Error(err)
				} else if f, err := x.Float32(); err != nil || len(f) != 64 || f[0] == 0 {
					t.Errorf("read %d values: %v", len(f), err)
				}
				release()
				release() // letting go twice counts once
			}
		})
	}
	for _, scheme := range []string{"f16", "int8", "q8_0", "none"} {
		if err := s.Replace(t.Context(), load(t, path, scheme, 2)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Acquire(); recovery.ClassOf(err) != recovery.Stale {
		t.Errorf("acquired from a closed swap: %v", err)
	}
}

// A reader that holds on keeps its model, and does not keep others from the
// new one.
func TestSwapWaitsForReader(t *testing.T) {
	path := stories(t, "hf-f32")
	old, fresh := load(t, path, "none", 1), load(t, path, "none", 1)
	s := model.NewSwap(old)
	held, release, err := s.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Replace(ctx, fresh); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("replaced under a reader: %v", err)
	}
	now, letGo, err := s.Acquire()
	if err != nil || now != fresh || held != old {
		t.Errorf("new readers get the new model: %v", err)
	}
	letGo()
	x, err := held.Vars().Tensor("model.norm.weight")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Float32(); err != nil {
		t.Error(err)
	}
	release()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

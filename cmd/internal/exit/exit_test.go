package exit

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{recovery.Errorf(recovery.Unavailable, "read error"), 1},
		{recovery.Errorf(recovery.SourceChanged, "changed"), 1},
		{recovery.Errorf(recovery.Usage, "bad flag"), 2},
		{recovery.Errorf(recovery.InvalidCheckpoint, "truncated"), 3},
		{fmt.Errorf("open: %w", recovery.Errorf(recovery.Unsupported, "gguf")), 3},
		{recovery.Errorf(recovery.DigestMismatch, "a bit flipped"), 3},
		{recovery.Errorf(recovery.NotFound, "no such file"), 4},
		{recovery.Errorf(recovery.Unreachable, "connection refused"), 4},
		{recovery.Errorf(recovery.NotAllowed, "outside"), 4},
		{recovery.Errorf(recovery.OutOfCapacity, "too big"), 5},
		{recovery.Errorf(recovery.ClusterLost, "no server"), 6},
		{context.Canceled, 130},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("Code(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

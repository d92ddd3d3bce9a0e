package job

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAssign(t *testing.T) {
	spots := func(free ...int64) (s []spot) {
		for i, f := range free {
			s = append(s, spot{worker: fmt.Sprintf("w%d", i), device: "cpu", free: f, ranks: -1})
		}
		return s
	}
	for _, c := range []struct {
		name  string
		bytes []int64
		spots []spot
		want  []int
	}{
		{"spread evenly", []int64{1, 1, 1, 1}, spots(9, 9), []int{0, 1, 0, 1}},
		{"most room first", []int64{1, 1, 1}, spots(5, 9), []int{1, 0, 1}},
		{"by name", []int64{1}, []spot{{worker: "b", free: 1, ranks: -1}, {worker: "a", free: 1, ranks: -1}}, []int{1}},
		{"uneven where it must", []int64{1, 1, 1}, spots(1, 9), []int{1, 0, 1}},
		{"packed where spreading fails", []int64{2, 2, 4}, spots(4, 4), []int{1, 1, 0}},
		{"at most so many ranks", []int64{1, 1, 1}, []spot{{worker: "a", free: 9, ranks: 1}, {worker: "b", free: 9, ranks: 1}}, []int{0, 1, -1}},
		{"the devices of one worker", []int64{4, 4}, []spot{{worker: "a", device: "cuda:0", free: 5, ranks: -1}, {worker: "a", device: "cuda:1", free: 5, ranks: -1}}, []int{0, 1}},
		{"nowhere", []int64{2}, spots(1, 1), []int{-1}},
	} {
		var needs []need
		for i, b := range c.bytes {
			needs = append(needs, need{i, b})
		}
		if got := assign(needs, c.spots); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAssignNeverOverCommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var needs []need
		for i := range rapid.IntRange(0, 10).Draw(t, "needs") {
			needs = append(needs, need{i, rapid.Int64Range(0, 10).Draw(t, "bytes")})
		}
		var spots []spot
		for i := range rapid.IntRange(0, 6).Draw(t, "spots") {
			spots = append(spots, spot{worker: fmt.Sprint("w", i/2), device: fmt.Sprint("d", i%2),
				free: rapid.Int64Range(-3, 20).Draw(t, "free"), ranks: rapid.IntRange(-1, 3).Draw(t, "ranks")})
		}
		found := assign(needs, spots)
		used, ranks := make([]int64, len(spots)), make([]int, len(spots))
		for i, s := range found {
			if s >= 0 {
				used[s] += needs[i].bytes
				ranks[s]++
			}
		}
		for s := range spots {
			if ranks[s] > 0 && used[s] > spots[s].free || spots[s].ranks >= 0 && ranks[s] > spots[s].ranks {
				t.Fatalf("%+v got %d ranks of %d bytes", spots[s], ranks[s], used[s])
			}
		}
		for i, s := range found {
			for o := range spots {
				if s < 0 && needs[i].bytes <= spots[o].free-used[o] && (spots[o].ranks < 0 || ranks[o] < spots[o].ranks) {
					t.Fatalf("need %d has no place though %+v has room", i, spots[o])
				}
			}
		}
	})
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.50 KiB (1536 B)", 1 << 62: "4.00 EiB (4611686018427387904 B)"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

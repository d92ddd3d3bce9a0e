package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// defaultWait is how long a load waits for a number of workers.
const defaultWait = 5 * time.Minute

// waitFlag is the value of --wait-for-workers: a number, a time, or both.
type waitFlag struct {
	workers int
	limit   time.Duration
}

func (w *waitFlag) set() bool { return w.limit > 0 }

// Set implements pflag.Value.
func (w *waitFlag) Set(text string) error {
	got := waitFlag{}
	for part := range strings.SplitSeq(text, ",") {
		n, notNumber := strconv.Atoi(part)
		d, notTime := time.ParseDuration(part)
		switch {
		case notNumber == nil && n > 0 && got.workers == 0:
			got.workers = n
		case notTime == nil && d > 0 && got.limit == 0:
			got.limit = d
		default:
			return fmt.Errorf("want a number of workers, a time, or both, such as 3,2m")
		}
	}
	if got.limit == 0 {
		got.limit = defaultWait
	}
	*w = got
	return nil
}

// String implements pflag.Value.
func (w *waitFlag) String() string {
	switch {
	case !w.set():
		return ""
	case w.workers == 0:
		return w.limit.String()
	}
	return fmt.Sprintf("%d,%s", w.workers, w.limit)
}

// Type implements pflag.Value.
func (w *waitFlag) Type() string { return "N,TIME" }

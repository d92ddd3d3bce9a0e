package job

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
)

// places is what ranks are placed by: the ranks that look for a home or have one
// at a worker that is up, and the devices of such workers.
type places struct {
	ranks   []placement.Rank
	numbers []int // of the ranks
	devices []placement.Device
	workers []*worker // of the devices
}

// places lists the devices of workers that are up, less what ranks take there.
func (j *Job) places() places {
	var s places
	first := make([]int, len(j.workers)+1) // of each worker, in devices
	for i, w := range j.workers {
		first[i] = len(s.devices)
		if w.health == up {
			for _, room := range w.rooms {
				s.devices = append(s.devices, placement.Device{Worker: w.id.Name, ID: room.Device, Free: room.Bytes,
					Ranks: cmp.Or(room.Ranks, -1), NUMA: room.NUMA, Peers: room.Peers})
				s.workers = append(s.workers, w)
			}
		}
		first[i+1] = len(s.devices)
	}
	for i := range j.ranks {
		r, at := &j.ranks[i], -1
		if r.home != nil {
			own := s.devices[first[r.home.at]:first[r.home.at+1]]
			k := slices.IndexFunc(own, func(d placement.Device) bool { return d.ID == r.hold.Device })
			if k < 0 {
				continue
			}
			if own[k].Free -= r.bytes; own[k].Ranks > 0 {
				own[k].Ranks--
			}
			at = first[r.home.at] + k
		}
		shape := &j.plan.Ranks[i]
		s.ranks = append(s.ranks, placement.Rank{Group: i - shape.TP, Replica: shape.DP, Bytes: r.bytes, Home: at, Pin: j.pins[i]})
		s.numbers = append(s.numbers, i)
	}
	return s
}

// noRoom says what is missing for the ranks that found no device.
func (s *places) noRoom(found []int) error {
	var all, out, free, largest int64
	var needs, left int
	first := -1
	for i, r := range s.ranks {
		if r.Home >= 0 {
			continue
		}
		needs++
		all += r.Bytes
		if found[i] < 0 {
			if first < 0 {
				first = i
			}
			left++
			out += r.Bytes
		}
	}
	missing := func(hint, format string, args ...any) error {
		return &recovery.Error{Class: recovery.OutOfCapacity, Op: "place ranks", Err: fmt.Errorf(format, args...), Hint: hint}
	}
	r := s.ranks[first]
	rooms := placement.Allowed(s.devices, r.Pin)
	if r.Pin != nil && len(rooms) == 0 {
		return missing("see `gantry workers`, or place it elsewhere", "rank %d is to be on %s, which is not there, or cannot open the model", s.numbers[first], r.Pin)
	}
	if len(rooms) == 0 {
		return missing("start a worker", "no worker has joined with a device for %d ranks", needs)
	}
	for _, d := range rooms {
		if d.Ranks != 0 {
			free += max(d.Free, 0)
			largest = max(largest, d.Free)
		}
	}
	if r.Pin != nil {
		return missing("place it elsewhere, or unload what is there", "rank %d is to be on %s and needs %s; %s is free there, "+kept, s.numbers[first], r.Pin, size(r.Bytes), size(largest))
	}
	return missing("add workers or memory, use more ranks, or a smaller scheme",
		"no room for %d of %d ranks (%s of %s); rank %d alone needs %s; %s is free on %d devices, at most %s on one, "+kept,
		left, needs, size(out), size(all), s.numbers[first], size(r.Bytes), size(free), len(rooms), size(largest))
}

// kept says what does not count as free, which is all of a device where little
// of its memory is: a reader who asks the device itself sees more.
const kept = "beside what stays free for other uses: 5 %% of a GPU and at least 512 MiB, on a host the staging budget and 96 MiB"

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), -1
	for f >= 1<<10 {
		f /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.2f %ciB (%d B)", f, "KMGTPE"[unit], n)
}

package placement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

// Pin says where a rank is to lie. At least one of Worker and Device is
// named; what is left out may be any.
type Pin struct {
	Rank   int    `json:"rank"`
	Worker string `json:"worker,omitempty"`
	Device string `json:"device,omitempty"` // "cpu", "cuda:0"
}

// matches reports whether a device is what is asked for.
func (p *Pin) matches(d *Device) bool {
	return (p.Worker == "" || p.Worker == d.Worker) && (p.Device == "" || p.Device == d.ID)
}

// String writes the place for people: "cuda:0 of worker a".
func (p *Pin) String() string {
	switch {
	case p.Worker == "":
		return p.Device
	case p.Device == "":
		return "worker " + p.Worker
	}
	return p.Device + " of worker " + p.Worker
}

// Check says, with class usage, what of the pins makes no sense for a load of
// so many ranks.
func Check(pins []Pin, ranks int) error {
	seen := map[int]bool{}
	for _, p := range pins {
		switch {
		case p.Rank < 0 || p.Rank >= ranks:
			return usage("rank %d: the layout has ranks 0 to %d", p.Rank, ranks-1)
		case seen[p.Rank]:
			return usage("rank %d is placed twice", p.Rank)
		case p.Worker == "" && p.Device == "":
			return usage("rank %d: want a worker, a device, or both", p.Rank)
		case p.Device != "" && !isDevice(p.Device):
			return usage("rank %d: unknown device %q: want cpu or cuda:N", p.Rank, p.Device)
		}
		seen[p.Rank] = true
	}
	return nil
}

func isDevice(id string) bool {
	if id == CPU {
		return true
	}
	rest, ok := strings.CutPrefix(id, "cuda:")
	n, err := strconv.ParseUint(rest, 10, 16)
	return ok && err == nil && rest == strconv.FormatUint(n, 10)
}

func usage(format string, args ...any) error {
	return &recovery.Error{Class: recovery.Usage, Op: "place ranks", Err: fmt.Errorf(format, args...)}
}

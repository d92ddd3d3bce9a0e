package placefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gantry-ml/gantry/internal/settings"
	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
)

// maxRank is above any layout's ranks.
const maxRank = 1 << 16

// Read reads a file. Errors are of class usage and name the file.
func Read(path string) ([]placement.Pin, error) {
	data, err := settings.Read(path)
	if err != nil {
		return nil, wrong(path, "name a file that can be read", err)
	}
	return Parse(path, data)
}

// Parse reads the contents of a file of the given name:
//
//	placement:
//	  - ranks: 0-3                # a number, a range, several of them, or a list
//	    worker: a                 # any that has the device, where none is named
//	    devices: [cuda:0, cuda:1, cuda:2, cuda:3]
//	  - ranks: [4, 5]
//	    worker: b                 # any of its devices
//	  - ranks: 6,7
//	    devices: cpu              # one device takes all
//
// Devices go to the ranks in turn: there is one, or one for each rank. Ranks
// that are not named are placed by policy.
func Parse(name string, data []byte) ([]placement.Pin, error) {
	fields, err := settings.Decode(data)
	if err != nil {
		return nil, wrong(name, "write YAML or JSON", err)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, wrong(name, "write keys as text", err)
	}
	var file struct {
		Placement []entry `json:"placement"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, wrong(name, "want placement: a list of ranks, worker, devices", err)
	}
	if len(file.Placement) == 0 {
		return nil, wrong(name, "want placement: a list of ranks, worker, devices", errors.New("it places no rank"))
	}
	var pins []placement.Pin
	for i, e := range file.Placement {
		more, err := e.pins()
		if err != nil {
			return nil, wrong(name, "", fmt.Errorf("entry %d: %w", i+1, err))
		}
		if pins = append(pins, more...); len(pins) > maxRank {
			return nil, wrong(name, "", fmt.Errorf("it places more than %d ranks", maxRank))
		}
	}
	if err := placement.Check(pins, maxRank); err != nil {
		return nil, wrong(name, "", errors.Unwrap(err))
	}
	return pins, nil
}

func wrong(file, hint string, err error) error {
	return &recovery.Error{Class: recovery.Usage, Op: "read placement", File: file, Err: err, Hint: hint}
}

// entry places some ranks.
type entry struct {
	Ranks   ranks   `json:"ranks"`
	Worker  string  `json:"worker"`
	Devices devices `json:"devices"`
}

func (e entry) pins() ([]placement.Pin, error) {
	count := 0
	for _, r := range e.Ranks {
		count += r.last - r.first + 1
	}
	switch n := len(e.Devices); {
	case count == 0:
		return nil, errors.New("it names no ranks")
	case count > maxRank:
		return nil, fmt.Errorf("it names %d ranks, more than there can be", count)
	case n > 1 && n != count:
		return nil, fmt.Errorf("%d devices for %d ranks: want one, or one for each", n, count)
	}
	var pins []placement.Pin
	for _, r := range e.Ranks {
		for rank := r.first; rank <= r.last; rank++ {
			p := placement.Pin{Rank: rank, Worker: e.Worker}
			if n := len(e.Devices); n > 0 {
				p.Device = e.Devices[len(pins)%n]
			}
			pins = append(pins, p)
		}
	}
	return pins, nil
}

// ranks reads 3, "0-3,8", or a list of such.
type ranks []span

type span struct{ first, last int }

// UnmarshalJSON implements json.Unmarshaler.
func (r *ranks) UnmarshalJSON(b []byte) error {
	list := []json.RawMessage{b}
	if b[0] == '[' {
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
	}
	for _, text := range list {
		for part := range strings.SplitSeq(strings.Trim(string(text), `"`), ",") {
			first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
			if !isRange {
				last = first
			}
			from, err := strconv.ParseUint(first, 10, 16)
			to, err2 := strconv.ParseUint(last, 10, 16)
			if err != nil || err2 != nil || from > to {
				return fmt.Errorf("ranks %s: want numbers and ranges such as 0-3", text)
			}
			*r = append(*r, span{int(from), int(to)})
		}
	}
	return nil
}

// devices reads "cuda:0", "cuda:0,cuda:1", or a list.
type devices []string

// UnmarshalJSON implements json.Unmarshaler.
func (d *devices) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(d))
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*d = strings.Split(s, ",")
	return nil
}

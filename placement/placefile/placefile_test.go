package placefile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/placement"
	"github.com/gantry-ml/gantry/recovery"
)

func TestParse(t *testing.T) {
	want := []placement.Pin{
		{Rank: 0, Worker: "a", Device: "cuda:0"}, {Rank: 1, Worker: "a", Device: "cuda:1"},
		{Rank: 4, Worker: "b"}, {Rank: 5, Worker: "b"}, {Rank: 7, Worker: "b"},
		{Rank: 2, Device: "cpu"}, {Rank: 3, Device: "cpu"},
	}
	for _, text := range []string{`
placement:
  - ranks: 0-1
    worker: a
    devices: [cuda:0, cuda:1]
  - {ranks: "4-5,7", worker: b}
  - ranks: [2, 3]
    devices: cpu
`, "{\n\t\"placement\": [{\"ranks\": [\"0-1\"], \"worker\": \"a\", \"devices\": \"cuda:0,cuda:1\"}, {\"ranks\": [\"4-5\", 7], \"worker\": \"b\"}, {\"ranks\": \"2,3\", \"devices\": [\"cpu\"]}]}"} {
		path := filepath.Join(t.TempDir(), "place.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                         "places no rank",
		"placement: []":            "places no rank",
		"placement: 3":             "cannot unmarshal",
		"place: []":                `unknown field "place"`,
		"- ranks: 0":               "cannot unmarshal",
		"placement: [{ranks: 0}]":  "rank 0: want a worker, a device, or both",
		"placement: [{worker: a}]": "names no ranks",
		"placement: [{ranks: 0, worker: a, node: b}]":                            `unknown field "node"`,
		"placement: [{ranks: 3-1, worker: a}]":                                   "want numbers and ranges",
		"placement: [{ranks: -1, worker: a}]":                                    "want numbers and ranges",
		"placement: [{ranks: 0-99999999, worker: a}]":                            "want numbers and ranges",
		"placement: [{ranks: 1.5, worker: a}]":                                   "want numbers and ranges",
		"placement: [{ranks: null, worker: a}]":                                  "want numbers and ranges",
		"placement: [{ranks: 0-3, devices: [cuda:0, cuda:1]}]":                   "2 devices for 4 ranks",
		"placement: [{ranks: 0, devices: gpu0}]":                                 `unknown device "gpu0"`,
		"placement: [{ranks: 0, devices: 3}]":                                    "cannot unmarshal",
		"placement: [{ranks: 0, worker: a}, {ranks: 0-1, worker: b}]":            "rank 0 is placed twice",
		"placement: [{1: 2}]":                                                    "write keys as text",
		"{":                                                                      "write YAML or JSON",
		strings.Repeat("#", 2<<20):                                               "larger",
		"placement: [{ranks: [0-60000,0-60000], worker: a}]":                     "more than",
		"placement: [{ranks: [[0-6],[0-6]], worker: a}]":                         "want numbers and ranges",
		"placement: [{ranks: 0, devices: cuda:01}]":                              "unknown device",
		"placement: [{ranks: 0, worker: a, devices: [cuda:0], devices: [cpu]}]":  "write YAML or JSON",
		"placement: [{ranks: 0, worker: a, devices: []}, {ranks: 0, worker: b}]": "placed twice",
	} {
		got, err := Parse("f.yaml", []byte(text))
		if recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%.60q: %v, %v; want class usage and %q", text, got, err, why)
		}
	}
	if _, err := Read("/nowhere/place.yaml"); recovery.ClassOf(err) != recovery.Usage || !strings.Contains(err.Error(), "/nowhere/place.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("placement: [{ranks: 0-3, worker: a, devices: [cuda:0]}]"))
	f.Add([]byte(`{"placement": [{"ranks": ["0-1", 7], "devices": "cpu,cuda:1"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		pins, err := Parse("f", data)
		if err != nil {
			if recovery.ClassOf(err) != recovery.Usage {
				t.Fatal(err)
			}
			return
		}
		if len(pins) == 0 || placement.Check(pins, maxRank) != nil {
			t.Fatalf("%+v", pins)
		}
	})
}

package gguf

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// testdata returns the folder of shared test data, or ends the test.
func testdata(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("GANTRY_TESTDATA"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		at := filepath.Join(dir, "..", "shared", "testdata")
		if _, err := os.Stat(at); err == nil {
			return at
		}
	}
	t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds gguf/VERDICTS.tsv")
	return ""
}

// ownChoice are the verdicts on files where either is fine. A tensor without
// elements, without a name, or with a name like a path is a tensor; a name
// that is not UTF-8 would change on its way through JSON.
var ownChoice = map[string]string{
	"dims_zero.gguf": "accept", "dims_zero_mid.gguf": "accept", "q8_0_row_zero.gguf": "accept",
	"name_empty.gguf": "accept", "name_path.gguf": "accept", "name_invalid_utf8.gguf": "reject",
}

// TestVerdicts holds Read to what libggml said about loading each file, or to
// what was suggested instead.
func TestVerdicts(t *testing.T) {
	dir := filepath.Join(testdata(t), "gguf")
	src, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	f, err := os.Open(filepath.Join(dir, "VERDICTS.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tsv := csv.NewReader(f)
	tsv.Comma, tsv.LazyQuotes = '\t', true
	rows, err := tsv.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 53 {
		t.Fatalf("%d rows in VERDICTS.tsv, want a heading and 52 files", len(rows))
	}
	for _, row := range rows[1:] {
		name, verdict, suggested, detail := row[0], row[2], row[3], row[4]
		switch own, ok := ownChoice[name]; {
		case suggested == "own_choice" && !ok:
			t.Fatalf("%s: no choice made", name)
		case suggested == "own_choice":
			verdict = own
		case suggested != "as_oracle":
			verdict, _, _ = strings.Cut(suggested, ":")
		}
		t.Run(name, func(t *testing.T) {
			r, err := src.Open(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			h, err := Read(context.Background(), r)
			if verdict == "reject" {
				var e *recovery.Error
				if !errors.As(err, &e) || e.Class != recovery.InvalidCheckpoint && e.Class != recovery.Unsupported || e.File != name {
					t.Fatalf("got %v, want a refusal that names the file", err)
				}
				if strings.ContainsAny(err.Error(), "\n\r") {
					t.Errorf("%q is not one line", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			var want, got described
			if err := json.Unmarshal([]byte(detail), &want); err != nil {
				t.Fatal(err)
			}
			got.describe(t, h)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// described is a header as VERDICTS.tsv tells it.
type described struct {
	Version    uint32 `json:"version"`
	Keys       int    `json:"n_kv"`
	Alignment  int64  `json:"alignment"`
	DataOffset int64  `json:"data_offset"`
	Tensors    []struct {
		Name   string `json:"name"`
		Type   int    `json:"type"`
		Offset int64  `json:"offset"`
		Size   int64  `json:"size"`
	} `json:"tensors"`
}

func (d *described) describe(t *testing.T, h *Header) {
	d.Version, d.Keys, d.Alignment, d.DataOffset = h.Version, len(h.Metadata), h.Alignment, h.Start
	d.Tensors = make([]struct {
		Name   string `json:"name"`
		Type   int    `json:"type"`
		Offset int64  `json:"offset"`
		Size   int64  `json:"size"`
	}, len(h.Tensors))
	for i, x := range h.Tensors {
		out := &d.Tensors[i]
		out.Name, out.Offset, out.Size, out.Type = x.Name, x.Offset-h.Start, x.Bytes, -1
		for number, typ := range types {
			if typ == x.DType {
				out.Type = number
			}
		}
		if out.Type < 0 {
			t.Errorf("%s is no type of ggml's", x.DType)
		}
	}
}

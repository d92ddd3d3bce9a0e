package safetensors

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
	t.Fatal("no test data: set GANTRY_TESTDATA to the folder that holds safetensors/VERDICTS.tsv")
	return ""
}

// TestVerdicts holds Read to what the reference implementation said about
// each file.
func TestVerdicts(t *testing.T) {
	dir := filepath.Join(testdata(t), "safetensors")
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
	tsv.Comma, tsv.LazyQuotes, tsv.FieldsPerRecord = '\t', true, -1
	rows, err := tsv.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 81 {
		t.Fatalf("%d rows in VERDICTS.tsv, want a heading and 80 files", len(rows))
	}
	for _, row := range rows[1:] {
		name, verdict, detail := row[0], row[1], row[3]
		t.Run(name, func(t *testing.T) {
			r, err := src.Open(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			h, err := Read(context.Background(), r)
			if verdict == "reject" {
				var e *recovery.Error
				if !errors.As(err, &e) || e.Class != recovery.InvalidCheckpoint || e.File != name {
					t.Fatalf("got %v, want an invalid_checkpoint that names the file", err)
				}
				if strings.ContainsAny(err.Error(), "\n\r") {
					t.Errorf("%q is not one line", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			// The one dimension that does not fit our int64.
			detail = strings.Replace(detail, "18446744073709551615", "9223372036854775807", 1)
			if got := describe(h); got != detail {
				t.Errorf("got  %s\nwant %s", got, detail)
			}
		})
	}
}

// describe writes a header as VERDICTS.tsv does: tensors by name, empty ones
// at -1.
func describe(h *Header) string {
	tensors := slices.Clone(h.Tensors)
	slices.SortFunc(tensors, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
	parts := make([]string, len(tensors))
	for i, x := range tensors {
		at := x.Offset
		if x.Bytes == 0 {
			at = -1
		}
		parts[i] = fmt.Sprintf("%q:%s:%s@%d+%d", x.Name, x.DType, strings.ReplaceAll(fmt.Sprint(x.Shape), " ", ", "), at, x.Bytes)
	}
	var meta []string
	for k, v := range h.Metadata {
		meta = append(meta, fmt.Sprintf("%q=%q", k, v))
	}
	slices.Sort(meta)
	return fmt.Sprintf("%d tensors %s meta[%s]", len(tensors), strings.Join(parts, " "), strings.Join(meta, " "))
}

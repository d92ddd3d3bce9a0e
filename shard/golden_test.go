package shard_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/quant"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/shard"
)

// TestPlan runs the goldens in testdata/plan, and TestFamilies those of each
// family. `checkpoint` lists tensors, one a line: file, dtype, name, shape; N
// layers repeat lines with "*", N experts those with "#", and a name that ends
// with "^T" is of a weight stored [in, out]. `plan` prints the parts of a plan
// that it is asked for; its lines are overrides, or rules where they name one, with @ and a place.
func TestPlan(t *testing.T) { walkPlans(t, "testdata/plan") }

func TestFamilies(t *testing.T) { walkPlans(t, "testdata/families") }

func walkPlans(t *testing.T, dir string) {
	datadriven.Walk(t, dir, func(t *testing.T, path string) {
		var s *stored
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "checkpoint":
				s = readCheckpoint(t, d)
				return fmt.Sprintf("%d tensors, %d files\n", len(s.ix.Tensors), len(s.ix.Files))
			case "plan":
				var o shard.Options
				var show []string
				for _, a := range d.CmdArgs {
					switch a.Key {
					case "tp":
						d.ScanArgs(t, a.Key, &o.Layout.TP)
					case "pp":
						d.ScanArgs(t, a.Key, &o.Layout.PP)
					case "ep":
						d.ScanArgs(t, a.Key, &o.Layout.EP)
					case "dp":
						d.ScanArgs(t, a.Key, &o.Layout.DP)
					case "scheme":
						d.ScanArgs(t, a.Key, &o.Scheme)
					case "chunk":
						d.ScanArgs(t, a.Key, &o.ChunkBytes)
					case "pad":
						d.ScanArgs(t, a.Key, &o.PadVocab)
					case "show":
						show = a.Vals
					default:
						d.Fatalf(t, "unknown argument %s", a.Key)
					}
				}
				for _, line := range strings.Fields(d.Input) {
					pattern, scheme, _ := strings.Cut(line, "=")
					rule, place, _ := strings.Cut(line, "@")
					if r, err := shard.ParseModuleRule(rule); err == nil {
						r.Place = place
						o.Rules = append(o.Rules, r)
						continue
					}
					o.Overrides = append(o.Overrides, quant.Override{Pattern: pattern, Scheme: scheme})
				}
				p, err := shard.Build(s.ix, o)
				if err != nil {
					return fmt.Sprintf("%s: %v\n", recovery.ClassOf(err), err)
				}
				return render(p, show)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func readCheckpoint(t *testing.T, d *datadriven.TestData) *stored {
	s := &stored{ix: &checkpoint.Index{Format: "safetensors"}}
	a := &s.ix.Architecture
	layers, experts := 1, 1
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "arch":
			d.ScanArgs(t, arg.Key, &a.Name)
		case "heads":
			d.ScanArgs(t, arg.Key, &a.Heads)
		case "kv":
			d.ScanArgs(t, arg.Key, &a.KVHeads)
		case "layers":
			d.ScanArgs(t, arg.Key, &layers)
		case "experts":
			d.ScanArgs(t, arg.Key, &experts)
		case "tied":
			a.TiedEmbeddings = true
		default:
			d.Fatalf(t, "unknown argument %s", arg.Key)
		}
	}
	var lines []string
	if d.Input != "" {
		lines = strings.Split(strings.TrimSpace(d.Input), "\n")
	}
	for i := 0; i < len(lines); i++ {
		if !strings.Contains(lines[i], "*") {
			addLine(t, d, s, lines[i])
			continue
		}
		stop := i
		for stop < len(lines) && strings.Contains(lines[stop], "*") {
			stop++
		}
		for l := range layers {
			for _, line := range lines[i:stop] {
				addExperts(t, d, s, strings.Replace(line, "*", strconv.Itoa(l), 1), experts)
			}
		}
		i = stop - 1
	}
	return s
}

func addExperts(t *testing.T, d *datadriven.TestData, s *stored, line string, experts int) {
	if !strings.Contains(line, "#") {
		experts = 1
	}
	for e := range experts {
		addLine(t, d, s, strings.Replace(line, "#", strconv.Itoa(e), 1))
	}
}

func addLine(t *testing.T, d *datadriven.TestData, s *stored, line string) {
	f := strings.Fields(line)
	file, err := strconv.Atoi(f[0])
	if err != nil {
		d.Fatalf(t, "%s: %v", line, err)
	}
	dt, err := dtype.Parse(f[1])
	if err != nil {
		d.Fatalf(t, "%s: %v", line, err)
	}
	var shape []int64
	for _, x := range f[3:] {
		n, err := strconv.ParseInt(x, 10, 64)
		if err != nil {
			d.Fatalf(t, "%s: %v", line, err)
		}
		shape = append(shape, n)
	}
	name, transposed := strings.CutSuffix(f[2], "^T")
	s.add(file, 0, name, dt, shape...)
	s.ix.Tensors[len(s.ix.Tensors)-1].Transposed = transposed
}

// render writes the parts of a plan for people.
func render(p *shard.Plan, show []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %d ranks, %d chunks, stored %d, read %d, placed %d\n", p.Options.Layout, p.Options.Scheme,
		len(p.Ranks), len(p.Chunks), p.StoredBytes, p.ReadBytes, p.PlacedBytes)
	span := func(s shard.Span) string { return fmt.Sprintf("[%d %d)", s.Start, s.Stop) }
	for _, what := range show {
		switch what {
		case "tensors":
			for _, t := range p.Tensors {
				fmt.Fprintf(&b, "tensor %s %s %d×%d %s → %s\n", t.Name, t.DType, t.Rows, t.Cols, t.Rule, t.Scheme)
			}
		case "who":
			who(&b, p)
		case "why":
			for _, t := range p.Tensors {
				fmt.Fprintf(&b, "%s %s → %s (%s)\n", t.Name, t.DType, t.Scheme, t.Why)
			}
		case "ranks":
			for _, r := range p.Ranks {
				fmt.Fprintf(&b, "rank %d dp%d pp%d ep%d tp%d: %d tensors, %d bytes\n", r.Rank, r.DP, r.PP, r.EP, r.TP, r.Tensors(), r.ArenaBytes)
			}
		case "slices":
			for _, r := range p.Ranks {
				fmt.Fprintf(&b, "rank %d: %d bytes\n", r.Rank, r.ArenaBytes)
				for _, s := range r.Slices {
					fmt.Fprintf(&b, "  %s rows %s cols %s", p.Tensors[s.Tensor].Name, span(s.Rows), span(s.Cols))
					if s.Held != s.Cols {
						fmt.Fprintf(&b, " held %s", span(s.Held))
					}
					for _, at := range s.Planes {
						fmt.Fprintf(&b, " @%d+%d", at.Offset, at.Bytes)
					}
					b.WriteByte('\n')
				}
			}
		case "chunks":
			for _, c := range p.Chunks {
				fmt.Fprintf(&b, "chunk %d: file %d [%d %d)\n", c.ID, c.File, c.Offset, c.Offset+c.Bytes)
				for _, s := range c.Segments {
					fmt.Fprintf(&b, "  %s rows %s cols %s @%d+%d\n", p.Tensors[s.Tensor].Name, span(s.Rows), span(s.Cols), s.At, s.Bytes)
				}
			}
		case "pieces":
			for _, c := range p.Chunks {
				for _, piece := range c.Pieces {
					fmt.Fprintf(&b, "chunk %d → rank %d: %d bytes\n", c.ID, piece.Rank, piece.Bytes)
					for _, e := range piece.Extents {
						fmt.Fprintf(&b, "  %s plane %d rows %s cols %s → @%d+%d\n", p.Tensors[c.Segments[e.Segment].Tensor].Name,
							e.Plane, span(e.Rows), span(e.Cols), e.Offset, e.Bytes)
					}
				}
			}
		}
	}
	for _, n := range p.Fallbacks {
		fmt.Fprintf(&b, "fallback %s: %s\n", n.Tensor, n.Reason)
	}
	for _, n := range p.Straddles {
		fmt.Fprintf(&b, "straddle %s: %s\n", n.Tensor, n.Reason)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

// who draws which ranks hold what of each tensor: "0 1 rows 0:8,16:24" is two
// ranks that hold the same two ranges of rows and all columns; what nobody is
// named for all ranks hold.
func who(b *strings.Builder, p *shard.Plan) {
	for i, t := range p.Tensors {
		held := map[string][]int{}
		var order []string
		for r := range p.Ranks {
			text := holding(p.Ranks[r].SlicesOf(i), &t)
			if held[text] == nil {
				order = append(order, text)
			}
			held[text] = append(held[text], r)
		}
		fmt.Fprintf(b, "%s %d×%d %s", t.Name, t.Rows, t.Cols, t.Rule)
		for _, text := range order {
			if text == "" {
				continue
			}
			ranks := strings.Trim(fmt.Sprint(held[text]), "[]")
			if len(order) == 1 {
				ranks = "all"
			}
			fmt.Fprintf(b, " | %s: %s", ranks, text)
		}
		b.WriteByte('\n')
	}
}

// holding writes the ranges that one rank holds.
func holding(own []shard.Slice, t *shard.Tensor) string {
	var rows, cols []string
	for _, s := range own {
		text := fmt.Sprintf("%d:%d", s.Rows.Start, s.Rows.Stop)
		if s.Pad > 0 {
			text += fmt.Sprintf("+%d", s.Pad)
		}
		if !slices.Contains(rows, text) {
			rows = append(rows, text)
		}
		if text := fmt.Sprintf("%d:%d", s.Cols.Start, s.Cols.Stop); !slices.Contains(cols, text) {
			cols = append(cols, text)
		}
	}
	var text []string
	if len(own) > 0 && (len(rows) > 1 || rows[0] != fmt.Sprintf("0:%d", t.Rows)) {
		text = append(text, "rows "+strings.Join(rows, ","))
	}
	if len(own) > 0 && (len(cols) > 1 || cols[0] != fmt.Sprintf("0:%d", t.Cols)) {
		text = append(text, "cols "+strings.Join(cols, ","))
	}
	if len(own) > 0 && text == nil {
		return "whole"
	}
	return strings.Join(text, " ")
}

package main

import (
	"fmt"
	"io"

	"github.com/gantry-ml/gantry/cmd/internal/size"
	"github.com/gantry-ml/gantry/shard"
)

// mostNotes is how many of a plan's notes are listed before they are counted.
const mostNotes = 8

// writeNotes writes the first of a plan's notes, and how many there are.
func writeNotes(w io.Writer, what string, notes []shard.Note) {
	fmt.Fprintf(w, "%s\t%d\n", what, len(notes))
	for i, n := range notes {
		if i == mostNotes {
			fmt.Fprintf(w, "\tand %d more, which --json has\n", len(notes)-i)
			break
		}
		fmt.Fprintf(w, "\t%s: %s\n", printable(n.Tensor), n.Reason)
	}
}

// becomes sums up the tensors of a plan that become the same.
type becomes struct {
	scheme         string
	tensors        int
	stored, placed int64 // bytes, of one whole copy
}

// summarize returns one line for each scheme of a plan, in the order of the
// model.
func summarize(p *shard.Plan) (list []becomes) {
	at := map[string]int{}
	for i := range p.Tensors {
		t := &p.Tensors[i]
		j, ok := at[t.Scheme]
		if !ok {
			j = len(list)
			at[t.Scheme] = j
			list = append(list, becomes{scheme: t.Scheme})
		}
		list[j].tensors++
		list[j].stored += t.Bytes
		list[j].placed += t.Placed()
	}
	return list
}

func writeBecomes(w io.Writer, p *shard.Plan) error {
	list := summarize(p)
	fmt.Fprintln(w)
	return table(w, "BECOMES\tTENSORS\tSTORED\tPLACED", len(list), func(tw io.Writer, i int) {
		b := list[i]
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\n", b.scheme, b.tensors, size.Format(b.stored), size.Format(b.placed))
	})
}

func writeTensors(w io.Writer, p *shard.Plan) error {
	fmt.Fprintln(w)
	return table(w, "TENSOR\tSHAPE\tCUT\tSTORED\tBECOMES\tBYTES\tWHY", len(p.Tensors), func(tw io.Writer, i int) {
		t := &p.Tensors[i]
		fmt.Fprintf(tw, "%s\t%v\t%s\t%s\t%s\t%s\t%s\n", printable(t.Name), t.Shape, t.Rule, t.DType, t.Scheme, size.Format(t.Placed()), printable(t.Why))
	})
}

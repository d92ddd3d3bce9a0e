package header

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/recovery"
)

// TestList gives back what it was given, whatever the number.
func TestList(t *testing.T) {
	for _, n := range []int{0, 1, minBlock, minBlock + 1, 5 * maxBlock, 5*maxBlock + 7} {
		var l List
		var b Budget
		b.Read(1 << 30)
		for i := range n {
			if err := l.Add(&b, Tensor{Offset: int64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if l.Len() != n {
			t.Errorf("%d of %d", l.Len(), n)
		}
		all := l.Tensors()
		if len(all) != n || cap(all) != n || l.Len() != 0 {
			t.Errorf("%d of %d, %d are left", len(all), n, l.Len())
		}
		for i := range all {
			if all[i].Offset != int64(i) {
				t.Fatalf("%d of %d is %+v", i, n, all[i])
			}
		}
	}
}

// TestTwice finds the one name that is there twice, and only then.
func TestTwice(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		tensors := make([]Tensor, n)
		for i, at := range r.Perm(n) {
			tensors[i].Name = fmt.Sprint(at)
		}
		if name, ok := Twice(tensors); ok {
			t.Fatalf("%q of %d", name, n)
		}
		if n < 2 {
			continue
		}
		a, b := r.IntN(n), r.IntN(n-1)
		if b >= a {
			b++
		}
		tensors[a].Name = tensors[b].Name
		if name, ok := Twice(tensors); !ok || name != tensors[a].Name {
			t.Fatalf("%q, %v of %d, want %q", name, ok, n, tensors[a].Name)
		}
		order := ByName(tensors)
		if !slices.IsSortedFunc(order, func(i, j int32) int { return strings.Compare(tensors[i].Name, tensors[j].Name) }) {
			t.Fatalf("%d names are not in order", n)
		}
		if i := slices.Index(order, int32(min(a, b))); order[i+1] != int32(max(a, b)) {
			t.Fatalf("the first of one name does not come first")
		}
	}
}

// TestBudget grows with the header, and refuses what is over it as unsupported.
func TestBudget(t *testing.T) {
	var b Budget
	if err := b.Spend(budgetFree); err != nil || b.Left() != 0 {
		t.Errorf("%v, %d left", err, b.Left())
	}
	if err := b.Text(0); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("over the budget: %v", err)
	}
	b.Read(1000)
	if room, err := b.Room(1000); err != nil || room != (budgetTimes*1000-textCost)/int(TensorBytes+tensorCost) {
		t.Errorf("room for %d: %v", room, err)
	}
}

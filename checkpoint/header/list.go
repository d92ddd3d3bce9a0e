package header

// List collects tensors whose number is not known before all are read. Growing
// a slice instead would allocate up to five times what it holds in the end.
type List struct {
	full [][]Tensor
	last []Tensor
	n    int
}

// Sizes of a List's blocks, in tensors.
const (
	minBlock = 16
	maxBlock = 1024
)

// Len returns how many tensors there are.
func (l *List) Len() int { return l.n }

// Add appends a tensor, as far as the header's budget goes: it is copied once,
// by Tensors.
func (l *List) Add(b *Budget, t Tensor) error {
	if err := b.Spend(2*TensorBytes + sortCost); err != nil {
		return err
	}
	if len(l.last) == cap(l.last) {
		l.full = append(l.full, l.last)
		l.last = make([]Tensor, 0, min(max(l.n, minBlock), maxBlock))
	}
	l.last = append(l.last, t)
	l.n++
	return nil
}

// Tensors returns all tensors, in the order they came, and empties the list.
func (l *List) Tensors() []Tensor {
	all := make([]Tensor, 0, l.n)
	for _, block := range l.full {
		all = append(all, block...)
	}
	all = append(all, l.last...)
	*l = List{}
	return all
}

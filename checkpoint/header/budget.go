package header

import "github.com/gantry-ml/gantry/recovery"

// What a header may make its parser and the Index allocate besides the bytes
// that are read: so many times its size, and as much for small ones. With what
// it is read into, at most twice its size or a mebibyte, indexing stays under
// four times the header and a mebibyte, for each file.
const (
	budgetTimes = 3
	budgetFree  = 384 << 10
)

// Budget holds what has been spent on a header. A real tensor's description has
// a name, a type and a shape, and is worth what it costs; only a header of many
// tensors or keys of hardly any bytes each goes over the budget. The zero value
// is that of a header of no bytes.
type Budget struct {
	header int64 // bytes of it so far
	spent  int64
}

// Read says how many bytes of the header have been read by now.
func (b *Budget) Read(n int64) { b.header = n }

// Left returns how many bytes may still be spent.
func (b *Budget) Left() int64 { return budgetTimes*b.header + budgetFree - b.spent }

// Spend takes n bytes. Errors: unsupported, where there are too few.
func (b *Budget) Spend(n int64) error {
	if b.spent += n; b.Left() < 0 {
		return recovery.Errorf(recovery.Unsupported, "after %d bytes of its header it would take over %d times as much memory: no real checkpoint describes so much in so few bytes", b.header, budgetTimes+1)
	}
	return nil
}

// Costs in bytes, of all that is allocated until the Index is there.
const (
	sortCost      = 24 // of a tensor in what sorts by name
	dimensionCost = 8
	textCost      = 16 // of a short text besides its bytes, at the most
	// entryCost is an entry of metadata: in the list that it is read into, and
	// in a map, which doubles as it grows.
	entryCost = 256
)

// Room returns how many of n claimed tensors there can be at the most, and
// takes the memory that they are read into. Each that comes takes Tensor.
func (b *Budget) Room(n int) (room int, err error) {
	room = min(n, int(b.Left()/(TensorBytes+tensorCost)))
	return room, b.Spend(int64(room) * TensorBytes)
}

// tensorCost is a tensor in the memory of Room. The tensors of several files
// are copied once more: the index that names those files pays for a half.
const tensorCost = TensorBytes/2 + sortCost

// Tensor takes what a tensor in the memory of Room costs without its name and
// shape.
func (b *Budget) Tensor() error { return b.Spend(tensorCost) }

// Shape takes what so many dimensions cost.
func (b *Budget) Shape(dimensions int) error { return b.Spend(dimensionCost * int64(dimensions)) }

// Text takes what a text of n bytes costs.
func (b *Budget) Text(n int) error { return b.Spend(textCost + int64(n)) }

// Entry takes what an entry of metadata costs without its texts.
func (b *Budget) Entry() error { return b.Spend(entryCost) }

// Package form reads tensors that are not stored as plain rows of elements:
// rows in another order, values that something was added to, weights that a
// quantizer divided over several stored arrays. A Form knows what arrays there
// are, which bytes of them some rows need, and how values follow from them. It
// is pure: shard asks it for sizes, loader gives it bytes.
//
// checkpoint names the form of a tensor, and the plan carries the name.
package form

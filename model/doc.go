// Package model is what stays after a load: a resident model with its plan,
// arenas and manifest; Vars, by which its tensors are read; and Swap, which
// replaces a model while readers finish on the old one.
package model

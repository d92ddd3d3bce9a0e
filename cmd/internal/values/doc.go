// Package values turns what a user gives into tensors, and tensors into what a
// user reads: JSON, NumPy's .npy files, numbers that are drawn, and statistics.
// gantry run calls it.
package values

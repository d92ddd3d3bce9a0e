// Package quant holds the schemes a tensor can be turned into while it is
// loaded, and their kernels. A scheme is a pure function of rows: what a row
// becomes depends on its values and the scheme only, never on who holds it.
// Portable Go is the oracle; faster kernels give the same bytes. shard asks
// it for sizes, loader for bytes.
package quant

// Package quant holds the schemes a tensor can be turned into while it is
// loaded, and their kernels. A scheme is a pure function of rows: what a row
// becomes depends on its values and the scheme only, never on who holds it.
// shard asks it for sizes, loader for bytes.
//
// Portable Go is the oracle; faster kernels give the same bytes. The amd64
// ones are generated (go generate ./quant, from the module in asm) and chosen
// once by CPU features; the build tag purego leaves them out.
package quant

// Package dtype names the element types and ggml's block types that
// checkpoints store and arenas hold, and knows their sizes. It is a leaf: it
// imports nothing of Gantry, and everything may import it.
package dtype

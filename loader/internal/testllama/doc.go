// Package testllama is a Llama forward pass for tests: plain Go over float32
// weights, to show that what was loaded still speaks. It is slow on purpose:
// every line can be checked against the architecture's definition.
package testllama

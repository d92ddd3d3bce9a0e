// Package session runs a loaded ONNX model: an ONNX Runtime session over the
// weights where they lie in the model's arena, and the checks that a model and
// its inputs fit before anything is loaded. It holds the model while it lives.
// It reads the graph from the checkpoint again, never a weight. gantry run and
// users of the library call it.
package session

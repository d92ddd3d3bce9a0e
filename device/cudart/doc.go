// Package cudart calls the CUDA runtime library, where there is one, for what
// ONNX Runtime has no call for: versions, waiting for a stream, clearing memory,
// sharing it with other processes. The library is found by the dynamic loader
// when it is first needed; nothing is linked against it.
package cudart

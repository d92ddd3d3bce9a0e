// Package ort is Gantry's only door to ONNX Runtime. It finds and opens the
// shared library at run time, wraps arena memory as weights of small graphs
// without a copy, and runs them: loader checks every sealed rank so.
//
// Sessions, tensors and the environment come from onnxruntime_go. What that
// module does not expose, AddInitializer above all, is in shim.go; values of any
// type and shape, and runs with them, are in value.go.
//
// onnxruntime_go keeps one environment per process, so one library is opened
// per process, and stays open until it ends.
package ort

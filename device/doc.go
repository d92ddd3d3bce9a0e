// Package device knows the memory that ranks live in: what devices there are,
// arenas on them, copies into arenas. Its folder ort is the shim over ONNX
// Runtime. loader places through it; nothing here knows of plans.
package device

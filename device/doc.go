// Package device knows the memory that ranks live in: what devices there are,
// arenas on them, copies into arenas, and handles by which other processes read
// them. Its folder ort is the shim over ONNX Runtime, cudart calls the CUDA
// runtime for what that has no call for, and fakecuda is one for tests. loader
// places through it; nothing here knows of plans.
package device

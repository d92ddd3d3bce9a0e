// Package fakecuda looks into a CUDA runtime that needs no GPU: what the folder
// c holds, under the CUDA provider of ONNX Runtime as it is. scripts/fakecuda.sh
// builds it and runs a command on it; `make test-fakecuda` runs the tests with
// the build tag fakecuda so.
package fakecuda

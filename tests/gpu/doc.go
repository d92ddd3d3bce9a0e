// Package gpu tests placing on a GPU: a real one with the build tag gpu (`make
// test-gpu`), and with the tag fakecuda the CUDA provider of ONNX Runtime over
// device/fakecuda, which counts, and fails when it is told to (`make
// test-fakecuda`).
package gpu

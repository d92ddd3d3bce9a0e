// Package llama holds the tests that run written GGUF files in llama.cpp: build
// tag llama, `make test-llama`. Its libraries are taken from the folder that
// GGML_LIB names, such as bins/linux-x64 of the npm package
// @node-llama-cpp/linux-x64.
package llama

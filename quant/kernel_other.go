//go:build !amd64 || purego

package quant

// twins returns the kernels that run on this machine, the fastest last.
func twins() []kernels { return []kernels{portable} }

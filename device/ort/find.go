package ort

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gantry-ml/gantry/recovery"
)

const (
	// EnvLibrary names the environment variable that holds the library's
	// path.
	EnvLibrary = "GANTRY_ORT_LIB"

	libraryName = "libonnxruntime.so.1"
	// cacheDir is the folder that scripts/ort.sh fills, cudaCacheDir that of
	// scripts/ort-cuda.sh, which has the CUDA provider as well.
	cacheDir     = ".cache/onnxruntime-1.29.0"
	cudaCacheDir = ".cache/onnxruntime-cuda-1.29.0"

	howToGet     = "run `make ort`, or install ONNX Runtime and set " + EnvLibrary
	howToGetCUDA = "run `make ort-cuda`, or install ONNX Runtime's build for GPUs and set " + EnvLibrary
)

// What the CUDA provider consists of. ONNX Runtime looks for the second in its
// own folder, and the first belongs there too.
const (
	cudaLibrary   = "libonnxruntime_providers_cuda.so"
	sharedLibrary = "libonnxruntime_providers_shared.so"
)

// FindCUDA returns the path of the CUDA provider's library, which lies beside
// that of ONNX Runtime. Without one the error is of class not_found.
func (r *Runtime) FindCUDA() (string, error) {
	dir := filepath.Dir(r.path)
	for _, name := range []string{sharedLibrary, cudaLibrary} {
		if !isFile(filepath.Join(dir, name)) {
			return "", &recovery.Error{Class: recovery.NotFound, Op: "find the CUDA provider of ONNX Runtime",
				Err: fmt.Errorf("%s is not in %s", name, dir), Hint: howToGetCUDA}
		}
	}
	return filepath.Join(dir, cudaLibrary), nil
}

// Find returns the path of the ONNX Runtime library: what GANTRY_ORT_LIB
// names; next to the executable or in the cache beside it; what the dynamic
// loader finds; /usr/lib, /usr/local/lib. That it is a usable one is for Open
// to say. Without one the error is of class not_found.
func Find() (string, error) {
	if path := os.Getenv(EnvLibrary); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", missing(fmt.Errorf("%s: %w", EnvLibrary, err))
		}
		return path, nil
	}
	for _, path := range besides() {
		if isFile(path) {
			return path, nil
		}
	}
	if l, err := load(libraryName); err == nil {
		defer l.unload()
		return l.file, nil
	}
	for _, dir := range []string{"/usr/lib", "/usr/local/lib"} {
		for _, name := range []string{libraryName, "libonnxruntime.so"} {
			if path := filepath.Join(dir, name); isFile(path) {
				return path, nil
			}
		}
	}
	return "", missing(fmt.Errorf("no %s was found", libraryName))
}

// besides returns the places that go with this executable. The binary of a
// test lies in a temporary folder, so a test, and only a test, looks upward
// from its working directory: a library from there is code that runs here.
func besides() []string {
	exe, err := os.Executable()
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	dir := filepath.Dir(exe)
	out := []string{
		filepath.Join(dir, libraryName),
		filepath.Join(dir, "../lib", libraryName),
		filepath.Join(dir, "..", cudaCacheDir, libraryName),
		filepath.Join(dir, "..", cacheDir, libraryName),
	}
	if !strings.HasSuffix(exe, ".test") {
		return out
	}
	for dir, err = os.Getwd(); err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		out = append(out, filepath.Join(dir, cudaCacheDir, libraryName), filepath.Join(dir, cacheDir, libraryName))
	}
	return out
}

func isFile(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.Mode().IsRegular()
}

func missing(why error) error {
	return &recovery.Error{Class: recovery.NotFound, Op: "find ONNX Runtime", Err: why, Hint: howToGet}
}

package cudart

// #include <dlfcn.h>
import "C"

import (
	"debug/elf"
	"fmt"
	"strings"
)

// Needs returns the libraries of NVIDIA's that the library in a file is linked
// against, such as "libcudart.so.13" and "libcuda.so.1".
func Needs(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	all, err := f.ImportedLibraries()
	var needs []string
	for _, name := range all {
		if strings.HasPrefix(name, "libcu") {
			needs = append(needs, name)
		}
	}
	return needs, err
}

// Missing returns why a library cannot be loaded and which package has it, or
// nil where it can. major is CUDA's version that is wanted, such as "13".
func Missing(name, major string) error {
	lib, err := load(name)
	if err == nil {
		C.dlclose(lib)
		return nil
	}
	return fmt.Errorf("%w (%s)", err, packageOf(name, major))
}

// packageOf says where a library comes from; the packages are those of NVIDIA's
// repositories for Debian, Ubuntu and RHEL.
func packageOf(name, major string) string {
	stem, _, _ := strings.Cut(name, ".")
	switch stem {
	case "libcuda":
		return "it comes with the NVIDIA driver; a container needs the NVIDIA container toolkit"
	case "libcudart":
		stem = "cuda-cudart"
	case "libcublasLt":
		stem = "libcublas"
	}
	return fmt.Sprintf("package %s-%s-0", stem, major)
}

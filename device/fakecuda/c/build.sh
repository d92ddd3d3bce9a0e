#!/usr/bin/env bash
# Builds the fake into the folder $1 under the names that the CUDA provider and
# NVML's callers ask the dynamic loader for.
set -euo pipefail
cd "$(dirname "$0")"
out=$1
mkdir -p "$out"

# build NAME SOURCE...
build() {
	gcc -O1 -g -Wall -Wno-parentheses -shared -fPIC -pthread -Wl,-soname,"$1" -o "$out/$1" "${@:2}"
}
# versioned NAME SOURCE...: its symbols carry its name as their version, as CUDA's do.
versioned() {
	echo "$1 { global: *; };" >"$out/$1.map"
	build "$@" -Wl,--version-script,"$out/$1.map"
	rm "$out/$1.map"
}
versioned libcudart.so.13 cudart.c kernels.c
versioned libcublas.so.13 cublas.c
versioned libcublasLt.so.13 cublas.c
build libcurand.so.10 curand.c
build libcuda.so.1 cuda.c
build libnvidia-ml.so.1 nvml.c

#!/usr/bin/env bash
# Builds the fake into the folder $1 under the names that the CUDA provider and
# NVML's callers ask the dynamic loader for.
set -euo pipefail
cd "$(dirname "$0")"
out=$1
mkdir -p "$out"

# build SOURCE NAME [OPTION]...
build() {
	gcc -O1 -g -Wall -Wno-parentheses -shared -fPIC -pthread -Wl,-soname,"$2" "${@:3}" -o "$out/$2" "$1"
}
# versioned SOURCE NAME: its symbols carry its name as their version, as CUDA's do.
versioned() {
	echo "$2 { global: *; };" >"$out/$2.map"
	build "$1" "$2" -Wl,--version-script,"$out/$2.map"
	rm "$out/$2.map"
}
versioned cudart.c libcudart.so.13
versioned cublas.c libcublas.so.13
versioned cublas.c libcublasLt.so.13
build curand.c libcurand.so.10
build cuda.c libcuda.so.1
build nvml.c libnvidia-ml.so.1

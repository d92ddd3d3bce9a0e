#!/usr/bin/env bash
# Prints the path of an ONNX Runtime library that has its CUDA provider beside
# it, and fetches the provider into .cache first where it is not there: built for
# CUDA 13 and for exactly this version of ONNX Runtime. The libraries of CUDA and
# the driver are not fetched: docs/gpu.md says where they come from.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.29.0
package=com.github.asus4.onnxruntime.linux-x64-gpu@0.4.9
integrity=sha512-FopIhNE/Ng+v2X65wVc9clPCBCvhvA53Hxo2U0Kf5fGdVsC7iCA+mZ0KLWggcQAj7TIZ6pNidR4AC10g74Xo6w==
runtime=.cache/onnxruntime-$version/libonnxruntime.so.1
dir=$PWD/.cache/onnxruntime-cuda-$version
lib=$dir/libonnxruntime.so.1

say() { echo "ort-cuda: $*" >&2; }
die() { say "$*"; exit 1; }

if [[ -f $lib ]]; then
	echo "$lib"
	exit
fi
[[ $(uname -sm) == 'Linux x86_64' ]] || die "no provider for $(uname -sm) in $package: install ONNX Runtime's build for GPUs and set GANTRY_ORT_LIB"
command -v npm >/dev/null || die "npm is missing: install it, or install ONNX Runtime's build for GPUs and set GANTRY_ORT_LIB"
# The provider goes with this version only, so an installed one is not used.
[[ -f $runtime ]] || GANTRY_ORT_LIB='' GANTRY_ORT_FETCH=1 scripts/ort.sh >/dev/null

say "fetching the CUDA provider (npm pack $package, 180 MB) into ${dir#"$PWD"/}"
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
(cd "$tmp" && npm pack --silent --ignore-scripts "$package" >/dev/null) || die "npm pack $package failed"
tarball=$(echo "$tmp"/*.tgz)
want=$(base64 -d <<<"${integrity#sha512-}" | od -An -v -tx1 | tr -d ' \n')
got=$(sha512sum <"$tarball" | cut -d' ' -f1)
[[ $got == "$want" ]] || die "$package is not what was pinned: sha512 $got, want $want; nothing was unpacked"
tar -xzf "$tarball" --no-same-owner -C "$tmp" --strip-components=4 package/Plugins/Linux/x64/libonnxruntime_providers_{cuda,shared}.so
cp "$runtime" "$tmp/"
mv "$tmp"/libonnxruntime_providers_{cuda,shared}.so "$dir/"
mv "$tmp/libonnxruntime.so.1" "$lib" # the last step: where this is, all is
echo "$lib"

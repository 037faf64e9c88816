#!/usr/bin/env bash
# Trains on one machine as on several hosts: N processes of `aeent train` that
# meet at 127.0.0.1, each with CPU devices of its own.
#
#   bash launch/local_hosts.sh --config=FILE --workdir=DIR [--config.KEY=VALUE]
#   bash launch/local_hosts.sh --dry-run ...   prints the commands, runs nothing
#
# What is given goes to every process. From the environment:
#
#   PROCESSES=2   how many processes
#   DEVICES=1     CPU devices of each
#   PORT=0        where they meet; 0 is a free one
#   AEENT=PATH    the program, instead of the one in .venv, where bootstrap.sh
#                 installs it if needed
#
# Each line of output begins with the number of its process. SIGTERM and Ctrl-C
# go to every process: all save at the same step, and the same command goes on
# from there. When a process fails, so does the script, with the status of the
# first that did: the others get 60 seconds to end by themselves.
set -euo pipefail
# shellcheck source=launch/bootstrap.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

# Checks that a variable is a whole number of at least $2, and at most $3.
check() {
  local name="$1" value="${!1}"
  case "$value" in
    '' | *[!0-9]* | ??????*) ;;
    *) [ "$value" -ge "$2" ] && [ "$value" -le "$3" ] && return ;;
  esac
  fail "$name is '$value', but must be a whole number from $2 to $3; set it" \
    "in the environment, as in $name=$2 bash launch/local_hosts.sh ..."
}

case "${1:-}" in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
esac

processes="${PROCESSES:-2}" devices="${DEVICES:-1}" port="${PORT:-0}"
PROCESSES="$processes" DEVICES="$devices" PORT="$port"
check PROCESSES 1 64
check DEVICES 1 64
check PORT 0 65535

dry=""
if [ "${1:-}" = --dry-run ]; then
  dry=yes
  shift
fi
if [ -n "${AEENT:-}" ]; then
  command -v -- "$AEENT" >/dev/null || fail "AEENT names $AEENT, which is no" \
    "program; give the path of aeent, or leave it unset."
  aeent="$AEENT"
else
  [ -n "$dry" ] || bootstrap
  aeent="$venv/bin/aeent"
fi

# Whether something listens at a port.
is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A free port, below those that the system hands out to connections.
while [ "$port" -eq 0 ]; do
  port=$((20000 + RANDOM % 10000))
  if is_taken "$port"; then port=0; fi
done

# XLA takes the last of two values of a flag.
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-}\
 --xla_force_host_platform_device_count=$devices"

running=() readers=()

# Sends a signal to every process that still runs.
forward() {
  local pid
  for pid in "${running[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}

# Ctrl-C as well: processes in the background may ignore it.
trap 'forward TERM' TERM INT
trap 'forward KILL' EXIT

# Puts the number of a process before each line, until its output ends: also
# when a signal goes to the whole group.
prefix() {
  trap '' TERM INT
  exec sed -u "s/^/[$1] /"
}

# Starts process $1 in the background.
start() {
  local id="$1" out err
  shift
  exec {out}> >(prefix "$id")
  readers+=("$!")
  exec {err}> >(prefix "$id" >&2)
  readers+=("$!")
  "$@" >&"$out" 2>&"$err" &
  running[id]="$!"
  exec {out}>&- {err}>&-
}

for ((id = 0; id < processes; id++)); do
  command=("$aeent" train --coordinator="127.0.0.1:$port"
    --num_processes="$processes" --process_id="$id" "$@")
  if [ -n "$dry" ]; then
    printf 'JAX_PLATFORMS=cpu XLA_FLAGS=%q' "$XLA_FLAGS"
    printf ' %q' "${command[@]}"
    printf '\n'
  else
    start "$id" "${command[@]}"
  fi
done
[ -z "$dry" ] || exit 0

# Waits for all; the status of the first failure ends up in `status`.
status=0 deadline=0
while [ "${#running[@]}" -gt 0 ]; do
  for id in "${!running[@]}"; do
    pid="${running[$id]}"
    if kill -0 "$pid" 2>/dev/null; then continue; fi
    code=0
    wait "$pid" || code=$?
    unset "running[$id]"
    if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
      status="$code" deadline=$((SECONDS + 60))
      say "Process $id ended with status $code; waiting for the others." >&2
    fi
  done
  if [ "$deadline" -gt 0 ] && [ "$SECONDS" -ge "$deadline" ]; then
    say "The others did not end within 60 s and are killed." >&2
    forward KILL
    deadline=0
  fi
  # A signal to the whole group ends this one as well.
  sleep 0.2 || true
done
# Until all of their output is there.
wait "${readers[@]}" || true
exit "$status"

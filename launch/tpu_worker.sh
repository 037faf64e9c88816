#!/usr/bin/env bash
# What tpu_pod.sh starts on each worker of a TPU slice.
#
#   bash launch/tpu_worker.sh setup SHARE MOUNT   mounts the share, and installs
#   bash launch/tpu_worker.sh run ...             aeent train --distributed ...
#   bash launch/tpu_worker.sh stop                asks training to save and end
#
# The image of a TPU VM may have an old Python only; uv then brings one.
set -euo pipefail
# shellcheck source=launch/bootstrap.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

# Of a run that saved because the worker was taken away: it is to be repeated.
interrupted=75

mount_share() {
  if mountpoint -q "$2"; then
    return
  fi
  command -v mount.nfs >/dev/null ||
    sudo sh -c 'apt-get -qq update && apt-get -qq install -y nfs-common'
  sudo mkdir -p "$2"
  sudo mount -t nfs "$1" "$2" ||
    fail "The share $1 cannot be mounted; check that it is in the network of" \
      "the slice, and TPU_SHARE."
}

setup() {
  mount_share "$@"
  if ! is_new_enough "$(probe python3)"; then
    python3 -m pip install --quiet --user uv
    "$HOME/.local/bin/uv" python install --quiet 3.11
    AEENT_PYTHON="$("$HOME/.local/bin/uv" python find 3.11)"
  fi
  bootstrap_for tpu
  # For workdirs in a bucket.
  run_pip -c "$root/requirements.lock" --no-build-isolation -e "$root[gcs]"
}

run() {
  cd -- "$root"
  # Held until training ends, also where the connection was lost before.
  exec 9>"$root/.aeent-running"
  flock -n 9 ||
    fail "$(hostname) is training already; wait for it, or end it with 'bash" \
      "launch/tpu_pod.sh stop'."
  exec "$venv/bin/aeent" train --distributed \
    --interrupted_status="$interrupted" "$@"
}

stop() {
  pkill -TERM -f "$venv/bin/aeent train" ||
    say "$(hostname) is not training."
}

case "${1:-}" in
  setup | run | stop) "$@" ;;
  *) fail "Unknown command ${1:-}; this script is started by tpu_pod.sh." ;;
esac

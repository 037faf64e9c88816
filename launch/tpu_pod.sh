#!/usr/bin/env bash
# Trains on a slice of a TPU pod of Google Cloud, all hosts as one run.
#
#   bash launch/tpu_pod.sh run --workdir=/mnt/aeent/runs/mine --config=FILE ...
#
# does everything: asks for the slice and waits until it is there, copies this
# project to all workers and installs it, and trains. What follows `run` goes to
# `aeent train`. Where the slice is preempted it asks for another one, and goes
# on from the last checkpoint; so does the same command, given again. Give it in
# tmux or the like: where it is interrupted, training may go on on the slice for
# a while, until `stop` has it save and end. One at a time:
#
#   bash launch/tpu_pod.sh create            asks for the slice and waits
#   bash launch/tpu_pod.sh setup             copies the project and installs it
#   bash launch/tpu_pod.sh status            state of the request and the slice
#   bash launch/tpu_pod.sh stop              training saves and ends
#   bash launch/tpu_pod.sh fetch PATH DIR    copies PATH of the share to DIR
#   bash launch/tpu_pod.sh delete [NAME]     gives the slice back; asks its name
#
# With --dry-run behind the subcommand, commands are printed and none is run.
# Nothing is deleted but by `delete`, save a request whose slice is gone. A
# slice costs money until it is deleted, also when training has ended.
#
# Variables, the first five needed:
#   TPU_NAME         of the slice and of the request for it, such as aeent
#   TPU_ZONE         such as us-west4-a
#   TPU_TYPE         accelerator and cores, such as v5litepod-256
#   TPU_VERSION      of its software, such as v2-alpha-tpuv5-lite
#   TPU_SHARE        an NFS export, such as 10.0.0.2:/aeent, of a Filestore in
#                    the slice's network, say; all workers see it as /mnt/aeent,
#                    and workdirs and data on it outlive the slice; a workdir
#                    can also be in a bucket, with --workdir=gs://BUCKET/PATH
#   TPU_PROJECT      of Google Cloud; by default gcloud's own
#   TPU_SPOT         1, the default, for spot; 0 for what is not preempted
#   TPU_POLL_SECONDS between two looks at a state; 30
#
# Needs gcloud, signed in, with the TPU API enabled and quota for TPU_TYPE.
set -euo pipefail
# shellcheck source=launch/bootstrap.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

mount=/mnt/aeent
unpack='mkdir -p aeent_jax && tar -xzf aeent_jax.tar.gz -C aeent_jax'
dry_run=""

# Ends unless the variable $1 is set; $2 says what it is, $3 is an example.
need() {
  [ -n "${!1:-}" ] || fail "$1 is not set, but is needed: $2; for example:" \
    "export $1=$3"
}

need_slice() {
  need TPU_NAME "the name of the slice" aeent
  need TPU_ZONE "the zone of the slice" us-west4-a
  place=(--zone="$TPU_ZONE")
  [ -z "${TPU_PROJECT:-}" ] || place+=(--project="$TPU_PROJECT")
  [ -n "$dry_run" ] || command -v gcloud >/dev/null ||
    fail "gcloud is not installed; https://cloud.google.com/sdk/docs/install" \
      "says how, then start again."
}

need_type() {
  need TPU_TYPE "the kind of slice" v5litepod-256
  need TPU_VERSION "the software of the slice" v2-alpha-tpuv5-lite
  case "${TPU_SPOT:-1}" in
    1) tier=(--spot) ;;
    0) tier=() ;;
    *) fail "TPU_SPOT is $TPU_SPOT, but must be 1 for spot or 0." ;;
  esac
}

need_share() {
  need TPU_SHARE "the NFS export that all workers mount" 10.0.0.2:/aeent
}

# Runs gcloud for TPUs, or prints how.
tpus() {
  if [ -z "$dry_run" ]; then
    gcloud compute tpus "$@"
  else
    printf 'gcloud compute tpus'
    printf ' %q' "$@"
    printf '\n'
  fi
}

# Prints the state of the request, or of the slice; nothing where there is none.
request_state() {
  tpus queued-resources describe "$TPU_NAME" "${place[@]}" \
    --format='value(state.state)' 2>/dev/null || true
}

slice_state() {
  tpus tpu-vm describe "$TPU_NAME" "${place[@]}" --format='value(state)' \
    2>/dev/null || true
}

pause() { sleep "${TPU_POLL_SECONDS:-30}"; }

ask_for_slice() {
  say "Asking for $TPU_TYPE in $TPU_ZONE, as $TPU_NAME."
  tpus queued-resources create "$TPU_NAME" "${place[@]}" \
    --node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE" \
    --runtime-version="$TPU_VERSION" "${tier[@]}" --async
}

drop_request() {
  say "The slice of $TPU_NAME is gone; its request is deleted."
  tpus queued-resources delete "$TPU_NAME" "${place[@]}" --force --quiet
}

# Returns when the slice is there.
create() {
  local state last=""
  if [ -n "$dry_run" ]; then
    request_state
    ask_for_slice
    slice_state
    return
  fi
  while :; do
    state="$(request_state)"
    case "$state" in
      "") ask_for_slice ;;
      ACTIVE)
        case "$(slice_state)" in
          READY) break ;;
          "" | PREEMPTED | TERMINATED) drop_request ;;
        esac
        ;;
      SUSPENDED) drop_request ;;
      FAILED)
        fail "The request $TPU_NAME failed; 'bash launch/tpu_pod.sh status'" \
          "says why, and after 'bash launch/tpu_pod.sh delete $TPU_NAME' you" \
          "can ask again."
        ;;
    esac
    [ "$state" = "$last" ] || say "The request is ${state:-new}."
    last="$state"
    pause
  done
  say "The slice $TPU_NAME is there."
}

# Runs a line of shell on all workers at once.
on_workers() {
  tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker=all --command="$1"
}

# The line that gives these words to tpu_worker.sh there.
worker() {
  printf 'bash aeent_jax/launch/tpu_worker.sh'
  printf ' %q' "$@"
}

# Written for use as a condition, where errors do not end the script.
setup() {
  local archive=aeent_jax.tar.gz status=0
  say "Copying the project to all workers, and installing it."
  if [ -z "$dry_run" ]; then
    archive="$(mktemp)"
    tar -czf "$archive" -C "$root" --exclude=./.git --exclude=./.venv \
      --exclude=./runs . || return
  fi
  tpus tpu-vm scp "$archive" "$TPU_NAME:aeent_jax.tar.gz" "${place[@]}" \
    --worker=all &&
    on_workers "$unpack && $(worker setup "$TPU_SHARE" "$mount")" ||
    status="$?"
  [ -n "$dry_run" ] || rm -f -- "$archive"
  return "$status"
}

# Whether the slice was lost: a preemption shows after a while.
is_lost() {
  local look
  for look in 1 2 3 4; do
    [ "$(request_state)" = ACTIVE ] && [ "$(slice_state)" = READY ] || return 0
    [ "$look" = 4 ] || pause
  done
  return 1
}

train() {
  say "Training."
  on_workers "$(worker run "$@")"
}

run() {
  local word workdir="" copy=""
  for word; do
    case "$word" in
      --workdir=gs://?*) workdir="$word" ;;
      --workdir="$mount"/?*)
        workdir="$word"
        copy="'bash launch/tpu_pod.sh fetch ${word#--workdir="$mount"/} DIR'"
        copy="$copy copies it here, and "
        ;;
    esac
  done
  [ -n "$workdir" ] ||
    fail "The workdir must be on the share or in a bucket; add" \
      "--workdir=$mount/runs/mine or --workdir=gs://BUCKET/runs/mine, say," \
      "behind 'run'."
  while :; do
    create
    if setup && train "$@"; then
      break
    fi
    is_lost || fail "This failed on a slice that is still there, with the" \
      "messages above; the same command goes on from the last checkpoint."
    say "The slice was preempted; asking for another one."
  done
  [ -n "$dry_run" ] ||
    say "Done. $copy'bash launch/tpu_pod.sh delete $TPU_NAME' gives the slice" \
      "back."
}

fetch() {
  [ "$#" = 2 ] ||
    fail "fetch needs a path on the share and a folder; for example: bash" \
      "launch/tpu_pod.sh fetch runs/mine runs"
  [ -n "$dry_run" ] || mkdir -p -- "$2"
  tpus tpu-vm scp "$TPU_NAME:$mount/$1" "$2" "${place[@]}" --worker=0 --recurse
}

delete() {
  local name="${1:-}"
  if [ -z "$name" ] && [ -t 0 ]; then
    read -r -p "Name of the slice to delete: " name
  fi
  [ "$name" = "$TPU_NAME" ] ||
    fail "delete needs the name of the slice, to be sure; found '$name', but" \
      "TPU_NAME is $TPU_NAME; give 'bash launch/tpu_pod.sh delete $TPU_NAME'."
  tpus queued-resources delete "$TPU_NAME" "${place[@]}" --force --quiet
}

status() {
  tpus queued-resources describe "$TPU_NAME" "${place[@]}"
  tpus tpu-vm describe "$TPU_NAME" "${place[@]}" --format='value(state)'
}

command="${1:-}"
[ "$#" = 0 ] || shift
if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
case "$command" in
  create | run) needed=(need_slice need_type) ;;
  setup | status | stop | fetch | delete) needed=(need_slice) ;;
  "" | -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
  *)
    fail "Unknown command $command; 'bash launch/tpu_pod.sh --help' lists them."
    ;;
esac
case "$command" in
  setup | run) needed+=(need_share) ;;
esac
for check in "${needed[@]}"; do "$check"; done
case "$command" in
  stop) on_workers "$(worker stop)" ;;
  *) "$command" "$@" ;;
esac

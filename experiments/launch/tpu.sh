#!/usr/bin/env bash
# Runs a script on every worker of a Cloud TPU pod slice, and goes on where it was
# pre-empted:
#
#   NAME=pod ZONE=us-west4-a TYPE=v5litepod-256 BUCKET=gs://mine experiments/launch/tpu.sh \
#     create|copy|run|status|resume|delete [SCRIPT --flag ...]
#
# SCRIPT is a name such as adapt. Its --out must be a disk that all workers share: a
# Filestore at /mnt/shared, say, or a bucket that gcsfuse has mounted there.
set -euo pipefail

name=${NAME:?the name of the queued resource, and of its TPU}
zone=${ZONE:?such as us-west4-a}
type=${TYPE:-v5litepod-256}
version=${VERSION:-v2-alpha-tpuv5-lite}

on_all() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

create() { # spot machines cost a third, and can be taken away
  gcloud compute tpus queued-resources create "$name" --node-id="$name" \
    --zone="$zone" --accelerator-type="$type" --runtime-version="$version" --spot
}

status() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)'
}

delete() {
  gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
}

copy() {
  local archive=/tmp/tljax.tar.gz
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$name:" --zone="$zone" --worker=all
  on_all 'mkdir -p tljax && tar -xzf tljax.tar.gz -C tljax && cd tljax &&
    python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt "jax[tpu]"'
}

# The workers find each other by the TPU's metadata. The same command starts a run and
# goes on with it.
run() {
  local command
  printf -v command '%q ' "$@"
  on_all "cd tljax && .venv/bin/python -m experiments.$command --resume"
}

# A spot slice that was taken away is SUSPENDED or FAILED: it is made anew, and waited for.
resume() {
  for _ in {1..100}; do
    run "$@" && return
    if [[ $(status) != ACTIVE ]]; then
      delete || true
      create
      until [[ $(status) == ACTIVE ]]; do sleep 60; done
      copy
    fi
    sleep 10
  done
  return 1
}

job=${1:?create, copy, run, status, resume or delete}
shift
case $job in
  create | copy | status | delete) "$job" ;;
  run | resume) "$job" "${@:?a script and its flags}" ;;
  *)
    echo "$job: choose create, copy, run, status, resume or delete" >&2
    exit 2
    ;;
esac

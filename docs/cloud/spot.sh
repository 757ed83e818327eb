#!/usr/bin/env bash
# Keep a run on spot TPUs going until it is finished: create, install, train, and again after every
# preemption. Usage: BUCKET=my-bucket ZONE=us-west4-a bash docs/cloud/spot.sh, in a checkout.
# TYPE=v5litepod-16 and SETTINGS="mesh.data=2 ..." select a slice of several hosts (pod-slice.md).
set -euo pipefail

: "${BUCKET:?name of the bucket}" "${ZONE:?zone of the TPUs}"
TYPE="${TYPE:-v5litepod-8}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"
SETTINGS="${SETTINGS:-}"
REQUEST=glamm-request
NODE=glamm

state() {
  gcloud compute tpus queued-resources describe "$REQUEST" --zone="$ZONE" \
    --format='value(state.state)' 2>/dev/null || echo NONE
}

remove() {
  gcloud compute tpus queued-resources delete "$REQUEST" --zone="$ZONE" --force --quiet || true
}
trap remove EXIT # also after Ctrl-C: nothing is left that costs money

on_all() {
  gcloud compute tpus tpu-vm ssh "$NODE" --zone="$ZONE" --worker=all --command="$1"
}

while true; do
  if [ "$(state)" != ACTIVE ]; then
    remove
    gcloud compute tpus queued-resources create "$REQUEST" --node-id="$NODE" --zone="$ZONE" \
      --accelerator-type="$TYPE" --runtime-version="$RUNTIME" --spot
    until [ "$(state)" = ACTIVE ]; do
      case "$(state)" in FAILED | SUSPENDED) continue 2 ;; esac
      sleep 60
    done
  fi
  gcloud compute tpus tpu-vm scp --recurse . "$NODE:glamm" --zone="$ZONE" --worker=all
  on_all 'cd glamm && bash docs/cloud/install-tpu.sh'
  on_all "gcloud storage rsync --recursive gs://$BUCKET/start glamm/start &&
    gcloud storage rsync --recursive gs://$BUCKET/shards glamm/shards"
  if on_all "cd glamm && source .venv/bin/activate &&
    bash docs/cloud/train.sh gs://$BUCKET/runs/gcg $SETTINGS"; then
    if [ "$(state)" = ACTIVE ]; then
      break # finished: the machine is still there
    fi
  fi
  sleep 30 # interrupted, or an error: look at the messages if this repeats
done

#!/usr/bin/env bash
# Train, or resume. Usage: train.sh RUN [NAME=VALUE ...], in a checkout, once in every process.
# START, the initial model, and SHARDS, the folder of the datasets, may be gs:// paths.
# PROCESS has the options of one of several processes (slurm.md), where JAX does not detect them.
set -euo pipefail

run="${1:?usage: train.sh RUN [NAME=VALUE ...]}"
shift
start="${START:-start}"
settings=(init.model="$start" data.tokenizer="$start" data.workers=4 "$@")
read -r -a process <<< "${PROCESS:-}" || true
# exec: the program itself receives SIGTERM, and saves a checkpoint.
exec glamm-jax train --config configs/finetune_gcg.py \
  --data "${SHARDS:-shards}/glamm_grandf_psg/1.0.0" --out "$run" \
  --set "${settings[@]}" "${process[@]}"

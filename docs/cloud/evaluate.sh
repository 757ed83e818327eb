#!/usr/bin/env bash
# Export the latest checkpoint of a run and evaluate it. Usage: evaluate.sh RUN, in a checkout.
set -euo pipefail

run="${1:?usage: evaluate.sh RUN}"
name="$(basename "$run")-$(date +%Y%m%dT%H%M%S)"
glamm-jax export "$run" --out "models/$name"
glamm-jax eval gcg --model "models/$name" --data data --dataset grandf_ha --split val --limit 100 --similarity words --out "out/$name"

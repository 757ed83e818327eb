#!/usr/bin/env bash
# Install GLaMM-JAX in .venv of a checkout on a TPU host. It can be repeated.
set -euo pipefail

[ -x "$HOME/.local/bin/uv" ] || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x .venv/bin/python ] || "$HOME/.local/bin/uv" venv --seed --python 3.11 .venv
.venv/bin/python -m pip install --quiet '.[tpu,convert]' huggingface_hub -c constraints.txt

"""CLIP vision models at full size: every recorded hidden state, and the pooled output."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.models.clip import CLIPVision
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.weights.clip import clip_table
from glamm_jax.weights.rules import WeightRule, WeightTable
from tools.parity.e2e_inputs import nhwc
from tools.parity.golden_model import clip_config, golden_module
from tools.parity.recipes import compared_inputs
from tools.parity.report import RecordedFile


def check_clip(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare the recorded hidden states and, if it is recorded, the pooled output.

    Args:
        recorded: the file.
        info: its entry in `info.json`.
    """
    names = recorded.names_under("hidden_states/")
    layers = {int(name.removeprefix("hidden_states/")) for name in names}
    if "pooler_output" in recorded:
        layers.add(info["config"]["num_hidden_layers"])
    config = clip_config(info["config"], tuple(sorted(layers)))
    prefix, salt = info["weights_prefix"], info["salt"]
    (pixels,) = compared_inputs(recorded, ["in/pixels"], info["input"], salt)
    model = golden_module(
        lambda: CLIPVision(config, rngs=nnx.Rngs(0)), clip_table(config), prefix=prefix, salt=salt
    )
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    states = np.asarray(run(state, jnp.asarray(nhwc(pixels))))
    for name in names:
        index = config.output_states.index(int(name.removeprefix("hidden_states/")))
        recorded.compare(name, states[index], "encoder")
    if "pooler_output" in recorded:
        last = states[config.output_states.index(config.num_layers)]
        norm = golden_module(
            lambda: LayerNorm(config.hidden_dim, config.norm_eps),
            WeightTable((WeightRule("weight", "scale"), WeightRule("bias", "bias"))),
            prefix=f"{prefix}vision_model.post_layernorm.",
            salt=salt,
        )
        recorded.compare("pooler_output", norm(jnp.asarray(last[:, 0])), "encoder")

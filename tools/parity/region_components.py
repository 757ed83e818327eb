"""The region encoder at full size: fused maps, RoIAlign and features; and a bfloat16 variant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import RegionConfig
from glamm_jax.models.region import RegionEncoder
from glamm_jax.weights.region import region_table
from tools.parity.e2e_inputs import nchw
from tools.parity.golden_model import golden_module
from tools.parity.recipes import generate_inputs, matches_recorded
from tools.parity.report import RecordedFile

NUM_LEVELS = 4


def check_region(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare the fused maps, then the features of every batch of boxes.

    Args:
        recorded: the file.
        info: its entry in `info.json`.
    """
    for levels in _candidates(info):
        encoder = _encoder(recorded, info, levels, _batches(recorded)[0])
        maps = _maps(encoder, [jnp.asarray(x) for x in levels])
        if matches_recorded(
            recorded, f"fused_level{NUM_LEVELS - 1}", nchw(np.asarray(maps[-1])), 1e-2
        ):
            break
    for level, x in enumerate(maps):
        recorded.compare(f"fused_level{level}", nchw(np.asarray(x)), "encoder")
    pooled_names = recorded.names_under("roi_level")
    for number, batch in enumerate(_batches(recorded)):
        boxes = [recorded.input(f"{batch}boxes{i}") for i in _images(recorded, batch)]
        features, pooled = _features(encoder, maps, boxes, levels[0].shape[1])
        start = 0
        for i, image_boxes in zip(_images(recorded, batch), boxes, strict=True):
            image_features = features[start : start + len(image_boxes)]
            recorded.compare(f"{batch}out{i}", image_features, "encoder")
            start += len(image_boxes)
        if number == 0:
            for name in pooled_names:
                level = int(name.removeprefix("roi_level"))
                recorded.compare(name, nchw(pooled[level][:1]), "encoder")


def check_region_bf16(recorded: RecordedFile, info: dict[str, Any]) -> None:
    """Compare features that are computed in bfloat16, for the first image of the inputs.

    Args:
        recorded: the file.
        info: its entry in `info.json`.
    """
    boxes = [recorded.input("boxes0")]
    for levels in _candidates(info):
        encoder = _encoder(recorded, info, levels, "")
        maps = _maps(encoder, [jnp.asarray(x[:1], jnp.bfloat16) for x in levels])
        features, _ = _features(encoder, maps, boxes, levels[0].shape[1])
        if matches_recorded(recorded, "out0", features.astype(np.float32), 0.2):
            break
    recorded.compare("out0", features.astype(np.float32), "bf16")


def _candidates(info: dict[str, Any]) -> Iterator[list[np.ndarray]]:
    """Generate CLIP's hidden states for all levels, with the salt and without it.

    The states are not recorded, and the recipe may not name the salt. The features tell which of
    the two is right.
    """
    recipe, salt = info["inputs"], info["salt"]
    for default_salt in dict.fromkeys((salt, "")):
        yield [
            generate_inputs(recipe, salt, default_salt, l=level)[0] for level in range(NUM_LEVELS)
        ]


def _batches(recorded: RecordedFile) -> list[str]:
    """Return the prefixes of the recorded batches: "a/", "b/", ..."""
    matches = (re.fullmatch(r"(.*/)boxes\d+", name) for name in recorded.names)
    return list(dict.fromkeys(match[1] for match in matches if match))


def _images(recorded: RecordedFile, batch: str) -> list[int]:
    names = recorded.names_under(f"{batch}boxes")
    return sorted(int(name.removeprefix(f"{batch}boxes")) for name in names)


def _encoder(
    recorded: RecordedFile, info: dict[str, Any], levels: list[np.ndarray], batch: str
) -> RegionEncoder:
    """Make the encoder; widths follow from inputs and outputs, groups (default 64) from `info`."""
    input_dim = levels[0].shape[-1]
    output_dim = recorded.shape(f"{batch}out0")[-1]
    described_config = info.get("config", {})
    config = RegionConfig(
        mid_dim=described_config.get("mid", input_dim),
        norm_groups=described_config.get("gn_groups", 64),
    )

    def make() -> RegionEncoder:
        return RegionEncoder(
            config,
            input_dim=input_dim,
            output_dim=output_dim,
            num_levels=NUM_LEVELS,
            rngs=nnx.Rngs(0),
        )

    prefix = info.get("weights_prefix", "model.region_encoder.")
    return golden_module(make, region_table(config, NUM_LEVELS), prefix=prefix, salt=info["salt"])


def _maps(encoder: RegionEncoder, levels: list[jax.Array]) -> list[jax.Array]:
    graph, state = nnx.split(encoder)

    @jax.jit
    def run(state: nnx.State, levels: list[jax.Array]) -> list[jax.Array]:
        encoder = nnx.merge(graph, state)
        return encoder.fuse(encoder.build_pyramid(levels))

    return run(state, levels)


def _features(
    encoder: RegionEncoder, maps: list[jax.Array], boxes: list[np.ndarray], patches: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the features of all boxes, image by image, and the output of RoIAlign by level."""
    flat = jnp.asarray(np.concatenate(boxes))
    image = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]).astype(np.int32)
    graph, state = nnx.split(encoder)
    grid = round(patches**0.5)

    @jax.jit
    def run(state: nnx.State, maps: list[jax.Array], flat: jax.Array) -> tuple:
        encoder = nnx.merge(graph, state)
        pooled = encoder.pool(maps, flat, jnp.asarray(image), grid)
        return encoder.project(pooled, flat), pooled

    features, pooled = run(state, maps, flat)
    return np.asarray(features), [np.asarray(x) for x in pooled]

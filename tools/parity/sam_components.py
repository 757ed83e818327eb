"""SAM at full size: the image encoder; the prompt encoder, the mask decoder and post-processing.

Sizes that `info.json` does not contain are taken from the recorded shapes. The remaining ones
(windows of 14, 8 decoder heads, ...) are the defaults of `SAMConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config import SAMConfig
from glamm_jax.errors import ConfigError
from glamm_jax.models.sam.decoder import MaskChoice, MaskDecoder
from glamm_jax.models.sam.encoder import ImageEncoder
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.models.sam.prompt import PromptEncoder
from glamm_jax.weights.sam import image_encoder_table, mask_decoder_table, prompt_encoder_table
from tools.parity.golden_model import golden_module
from tools.parity.recipes import compared_inputs
from tools.parity.report import GoldenError, RecordedFile


def check_image_encoder(recorded: RecordedFile, info: Mapping[str, Any]) -> None:
    """Compare the patches, the recorded blocks and the embedding of one image.

    Args:
        recorded: the file.
        info: its entry in `info.json`.
    """
    config = _encoder_config(recorded, info)
    salt = _entry(recorded, info, "salt")
    encoder = golden_module(
        lambda: ImageEncoder(config, rngs=nnx.Rngs(0)),
        image_encoder_table(config),
        prefix=_entry(recorded, info, "weights_prefix"),
        salt=salt,
    )
    recipe = _entry(recorded, info, "input")
    (pixels,) = compared_inputs(recorded, ["in/pixels"], recipe, salt)
    graph, values = nnx.split(encoder)

    @jax.jit
    def embed(values: nnx.State, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        encoder = nnx.merge(graph, values)
        return encoder.patch_embed(pixels), encoder.embed_patches(pixels)

    patches, x = embed(values, jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    recorded.compare("patch_embed", patches, "encoder")
    run = jax.jit(
        lambda values, x, start, stop: nnx.merge(graph, values).run_blocks(x, start, stop),
        static_argnums=(2, 3),
    )
    done = 0
    for block in sorted(_numbered(recorded, r"block(\d+)")):
        if block >= config.num_layers:
            continue  # stays unknown, which is a failure
        x = run(values, x, done, block + 1)
        done = block + 1
        recorded.compare(f"block{block}", x, "encoder")
    x = run(values, x, done, config.num_layers)
    embedding = jax.jit(lambda values, x: nnx.merge(graph, values).neck(x))(values, x)
    recorded.compare("image_embedding", _channels_first(embedding), "encoder")


def check_prompt_mask_decoder(recorded: RecordedFile, info: Mapping[str, Any]) -> None:
    """Compare prompt embeddings and masks for every recorded number of text embeddings.

    Args:
        recorded: the file.
        info: its entry in `info.json`.
    """
    config = _decoder_config(recorded)
    salt, prefix = _entry(recorded, info, "salt"), _entry(recorded, info, "weights_prefix")
    prompts = golden_module(
        lambda: PromptEncoder(config, rngs=nnx.Rngs(0)),
        prompt_encoder_table(),
        prefix=f"{prefix}prompt_encoder.",
        salt=salt,
    )
    decoder = golden_module(
        lambda: MaskDecoder(config, rngs=nnx.Rngs(0)),
        mask_decoder_table(config),
        prefix=f"{prefix}mask_decoder.",
        salt=salt,
    )
    groups = _numbered(recorded, r"n(\d+)/.+")
    recipe = _entry(recorded, info, "inputs")
    for count in sorted(groups):
        names = ["in/image_embedding", f"n{count}/in_text_embeds"]
        embedding, text = compared_inputs(recorded, names, recipe, salt, n=count)
        if "dense_pe" not in recorded.handled:
            recorded.compare("dense_pe", _channels_first(prompts.dense_positions()[None]), "module")
        _check_masks(recorded, info, f"n{count}", (prompts, decoder), (embedding, text))


def _check_masks(
    recorded: RecordedFile,
    info: Mapping[str, Any],
    group: str,
    modules: tuple[PromptEncoder, MaskDecoder],
    inputs: tuple[np.ndarray, np.ndarray],
) -> None:
    """Compare one number of prompts: embeddings, both kinds of masks, masks at original size."""
    prompts, decoder = modules
    image, text = (jnp.asarray(x) for x in inputs)
    sparse, dense = prompts(text=text)
    recorded.compare(f"{group}/sparse", sparse, "module")
    recorded.compare(f"{group}/dense", _channels_first(dense), "module")
    image = jnp.broadcast_to(image.transpose(0, 2, 3, 1), dense.shape)
    positions = prompts.dense_positions()
    graph, values = nnx.split(decoder)

    def decode(choice: MaskChoice) -> tuple[jax.Array, jax.Array]:
        run = jax.jit(lambda values, *args: nnx.merge(graph, values)(*args, choice=choice))
        return run(values, image, positions, sparse, dense)

    masks, iou = decode("single")
    recorded.compare(f"{group}/low_res_masks", masks, "module")
    recorded.compare(f"{group}/iou", iou, "module")
    if f"{group}/multimask_low_res" in recorded:
        multimasks, multimask_iou = decode("multiple")
        recorded.compare(f"{group}/multimask_low_res", multimasks, "module")
        recorded.compare(f"{group}/multimask_iou", multimask_iou, "module")
    for name, sizes in _entry(recorded, info, "post").items():
        if f"{group}/{name}" in recorded:
            resized, original = (tuple(_entry(recorded, sizes, key)) for key in ("resize", "orig"))
            at_original = _postprocess(masks[:, 0], resized, original, prompts.image_size)
            note = _pixel_note(recorded, f"{group}/{name}", np.asarray(at_original))
            recorded.compare(f"{group}/{name}", at_original, "mask", note)


def _pixel_note(recorded: RecordedFile, name: str, actual: np.ndarray) -> str:
    """Return a note with the share of stored pixels that agree after thresholding."""
    if f"{name}__val" not in recorded.values:
        expected = np.asarray(recorded.get(name))
    else:
        expected = recorded.get(f"{name}__val")
        actual = actual.reshape(-1).take(recorded.get(f"{name}__idx"), mode="clip")
    if expected.shape != actual.shape:
        return ""
    return f"{100 * np.mean((actual > 0) == (expected > 0)):.3f} % of mask pixels identical"


def _postprocess(
    masks: jax.Array, resized: tuple[int, int], original: tuple[int, int], canvas: int
) -> jax.Array:
    rows = lambda size: jnp.broadcast_to(jnp.asarray(size), (masks.shape[0], 2))  # noqa: E731
    return postprocess_masks(masks, rows(resized), rows(original), canvas, original)


def _encoder_config(recorded: RecordedFile, info: Mapping[str, Any]) -> SAMConfig:
    image_size, grid = recorded.shape("in/pixels")[-1], recorded.shape("patch_embed")[1]
    try:
        return SAMConfig(
            image_size=image_size,
            patch_size=image_size // grid,
            hidden_dim=_entry(recorded, info, "dim"),
            num_layers=_entry(recorded, info, "depth"),
            num_heads=_entry(recorded, info, "heads"),
            global_blocks=tuple(_entry(recorded, info, "global_attn")),
            out_dim=recorded.shape("image_embedding")[1],
        )
    except ConfigError as error:
        raise GoldenError(f"{recorded.file}: {error}") from error


def _decoder_config(recorded: RecordedFile) -> SAMConfig:
    shape = recorded.shape("in/image_embedding")
    if len(shape) != 4:
        raise GoldenError(f"{recorded.file}: in/image_embedding has shape {shape}, not 4 axes")
    _, channels, grid, _ = shape
    defaults = SAMConfig()
    multimasks = [
        recorded.shape(name)[1] for name in recorded.names if name.endswith("multimask_iou")
    ]
    try:
        return SAMConfig(
            image_size=grid * defaults.patch_size,
            out_dim=channels,
            num_multimasks=multimasks[0] if multimasks else defaults.num_multimasks,
        )
    except ConfigError as error:
        raise GoldenError(f"{recorded.file}: {error}") from error


def _numbered(recorded: RecordedFile, pattern: str) -> set[int]:
    """Return the numbers in the recorded names that match."""
    matches = (re.fullmatch(pattern, name) for name in recorded.names)
    return {int(match.group(1)) for match in matches if match}


def _entry(recorded: RecordedFile, info: Mapping[str, Any], key: str) -> Any:
    if key not in info:
        raise GoldenError(f"info.json: the entry of {recorded.file} has no {key!r}")
    return info[key]


def _channels_first(x: jax.Array) -> jax.Array:
    return x.transpose(0, 3, 1, 2)

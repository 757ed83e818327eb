"""Which parameters are trained, and the parts of the model that the optimizer distinguishes.

`PARAMETER_GROUPS` is one table of the model's parameters, by the start of their leaf paths. It says
to which part of the optimizer's state a parameter belongs, which sets of `optim.trainable` contain
it, and which matrices Muon may update. LoRA adapters have no row: they are in every set, and in the
part of the layer that they adapt.

A *part* is a set of parameters that an example uses together or not at all: a batch without boxes
does not use the region encoder. `used_parts` decides it from the validity masks of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import TrainableSet
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state


class ParameterGroup(NamedTuple):
    """A row of the table.

    Attributes:
        prefix: of the leaf paths.
        part: key of the optimizer's state. These names are part of the checkpoint format.
        title: printed by `glamm-jax plan` and at the start of a run.
        trained_in: the sets of `optim.trainable` that contain the parameters.
        is_block_stack: transformer blocks, stacked; their kernels are [layer, in, out].
    """

    prefix: str
    part: str
    title: str
    trained_in: tuple[TrainableSet, ...]
    is_block_stack: bool = False


# The sets that contain a parameter, named by the smallest of them.
_ALL: tuple[TrainableSet, ...] = ("released", "paper", "all_but_encoders", "everything")
_RELEASED: tuple[TrainableSet, ...] = ("released", "all_but_encoders", "everything")
_PAPER: tuple[TrainableSet, ...] = ("paper", "all_but_encoders", "everything")
_ALL_BUT_ENCODERS: tuple[TrainableSet, ...] = ("all_but_encoders", "everything")
_EVERYTHING: tuple[TrainableSet, ...] = ("everything",)

# The first row whose prefix matches counts. No loss depends on the part "unread",
# but for the IoU head if `losses.iou` is above 0.
PARAMETER_GROUPS = (
    ParameterGroup("clip.layers.", "clip", "CLIP", _EVERYTHING, is_block_stack=True),
    ParameterGroup("clip.", "clip", "CLIP", _EVERYTHING),
    ParameterGroup("projector.", "projector", "V-L projector", _PAPER),
    ParameterGroup("region_encoder.", "region_encoder", "region encoder", _ALL),
    ParameterGroup("llama.embed_tokens.", "llama", "embeddings", _RELEASED),
    ParameterGroup("llama.lm_head.", "lm_head", "lm_head", _RELEASED),
    ParameterGroup("llama.layers.", "llama", "LLaMA", _ALL_BUT_ENCODERS, is_block_stack=True),
    ParameterGroup("llama.", "llama", "LLaMA", _ALL_BUT_ENCODERS),
    ParameterGroup("text_projection.", "masks", "L-P projector", _ALL),
    ParameterGroup(
        "sam.encoder.window_blocks.", "masks", "SAM encoder", _EVERYTHING, is_block_stack=True
    ),
    ParameterGroup(
        "sam.encoder.global_blocks.", "masks", "SAM encoder", _EVERYTHING, is_block_stack=True
    ),
    ParameterGroup("sam.encoder.", "masks", "SAM encoder", _EVERYTHING),
    # The decoder's own estimate of a mask's IoU.
    ParameterGroup("sam.mask_decoder.iou_head.", "unread", "prompts and masks", _ALL),
    ParameterGroup("sam.mask_decoder.", "masks", "prompts and masks", _ALL),
    ParameterGroup("sam.prompt_encoder.no_mask", "masks", "prompts and masks", _EVERYTHING),
    # Prompts of points, boxes and masks; ours are text.
    ParameterGroup("sam.prompt_encoder.", "unread", "prompts and masks", _EVERYTHING),
)


ADAPTERS = "adapters"  # title of the LoRA adapters, which have no row


def group_of(leaf: str) -> ParameterGroup:
    """Return the row of the table that a leaf path belongs to.

    Raises:
        ValueError: no prefix of the table matches.
    """
    for group in PARAMETER_GROUPS:
        if leaf.startswith(group.prefix):
            return group
    raise ValueError(f"{leaf}: no prefix in PARAMETER_GROUPS matches; add a row")


def part_of(leaf: str) -> str:
    """Return the part that a leaf path belongs to."""
    return group_of(leaf).part


def is_adapter(leaf: str) -> bool:
    """Return whether a leaf path is one of a LoRA adapter's matrices."""
    return ".lora." in leaf


def title_of(leaf: str) -> str:
    """Return the title of the part that a leaf path belongs to in tables."""
    return ADAPTERS if is_adapter(leaf) else group_of(leaf).title


def part_titles() -> tuple[str, ...]:
    """Return the titles of all parts, in the order of tables."""
    return (*dict.fromkeys(group.title for group in PARAMETER_GROUPS), ADAPTERS)


def is_block_matrix(leaf: str) -> bool:
    """Return whether a leaf is a stack of matrices [layer, in, out] of transformer blocks."""
    stacks = tuple(group.prefix for group in PARAMETER_GROUPS if group.is_block_stack)
    return leaf.startswith(stacks) and leaf.endswith(".kernel")


def trainable_filter(name: TrainableSet) -> Callable[[tuple, nnx.Variable], bool]:
    """Return a filter for `nnx.split`: true for the parameters of a named set, false for constants.

    Every set has the LoRA adapters, the region encoder, the L-P projector and the mask decoder.

    Args:
        name: of the set:
            released: also the embeddings and lm_head, as in the released code.
            paper: also the V-L projector, as in the paper.
            all_but_encoders: everything but CLIP and SAM's image and prompt encoders, as the
                original was recorded.
            everything: for models trained from random weights.
    """

    def is_trained(path: tuple, variable: nnx.Variable) -> bool:
        if not isinstance(variable, nnx.Param):
            return False
        leaf = ".".join(map(str, path))
        return is_adapter(leaf) or name in group_of(leaf).trained_in

    return is_trained


def used_parts(
    batch: Batch, config: GLaMMConfig, trains_iou: bool = False
) -> dict[str, Bool[Array, ""]]:
    """Return for every part whether the losses of a batch depend on it. Padding does not count.

    Args:
        batch: of the step.
        config: of the model.
        trains_iou: whether `losses.iou` is above 0, so that a loss depends on the IoU head.
    """
    images, regions = jnp.any(batch.image_source >= 0), jnp.any(batch.region_source >= 0)
    words, masks = jnp.any(batch.target_valid), jnp.any(batch.mask_has_truth)
    shared = config.region.output == "shared"
    return {
        "clip": images | regions,
        "projector": images | regions if shared else images,
        "region_encoder": regions,
        "llama": words | masks,
        "lm_head": words,
        "masks": masks,
        "unread": masks if trains_iou else jnp.zeros((), bool),
    }


def leaves_by_part(state: nnx.State) -> dict[str, dict[str, Array]]:
    """Return {part: {leaf path: value}} of a state's variables."""
    parts: dict[str, dict[str, Array]] = {}
    for leaf, value in flatten_state(state).items():
        parts.setdefault(part_of(leaf), {})[leaf] = value
    return parts


def norms_by_part(gradients: nnx.State) -> dict[str, Float[Array, ""]]:
    """Return the L2 norm of the gradient of every part."""
    return {part: optax.tree.norm(leaves) for part, leaves in leaves_by_part(gradients).items()}

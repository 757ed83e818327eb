"""Which parameters learn, and by which rule: AdamW behind a clipped gradient.

The rule knows *parts*. A part is a set of parameters that an example reaches together or not at
all: a batch without boxes says nothing about the region encoder. torch does not touch a parameter
without gradient, nor its moments, nor its own count of steps, which the bias correction reads;
`optim.unused_parts = "skip"` does the same by the part, decided from the batch's validity masks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx
from jaxtyping import Array, Bool, Float

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import OptimConfig, TrainableSet
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import fill_state, flatten_state

_HEADS = ("region_encoder.", "text_projection.", "sam.mask_decoder.")
# Starts of the leaf paths that are trained; "lora" stands for every adapter, "" is every path.
TRAINED: dict[TrainableSet, tuple[str, ...]] = {
    "released": (*_HEADS, "llama.embed_tokens.", "llama.lm_head.", "lora"),
    "paper": (*_HEADS, "projector.", "lora"),
    "all_but_encoders": (*_HEADS, "projector.", "llama."),
    "everything": ("",),
}

# Start of a leaf's path -> its part; the first that fits counts.
PARTS = {
    "clip.": "clip",
    "projector.": "projector",
    "region_encoder.": "region_encoder",
    "llama.lm_head.": "lm_head",
    "llama.": "llama",
    "text_projection.": "masks",
    "sam.encoder.": "masks",
    "sam.mask_decoder.iou_head.": "unread",  # no loss looks at the decoder's own estimate
    "sam.mask_decoder.": "masks",
    "sam.prompt_encoder.no_mask": "masks",
    "sam.prompt_encoder.": "unread",  # points, boxes and masks: our prompts are text
}

# Starts of the paths of transformer blocks; every kernel in them is a stack [layer, in, out].
BLOCKS = (
    "clip.layers.",
    "llama.layers.",
    "sam.encoder.window_blocks.",
    "sam.encoder.global_blocks.",
)
STACKED = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def trainable_filter(name: TrainableSet) -> Callable[[tuple, nnx.Variable], bool]:
    """A filter for `nnx.split`: true for the parameters of a named set, never for constants.

    released, paper: adapters on the decoder, region encoder, L-P, pixel decoder; and embeddings
        with lm_head as in the released code, or V-L as in the paper.
    all_but_encoders: all but CLIP, SAM's image and prompt encoder, as the original was recorded.
    everything: all, for models trained from nothing.
    """
    starts = TRAINED[name]

    def trained(path: tuple, variable: nnx.Variable) -> bool:
        leaf = ".".join(map(str, path))
        adapter = "lora" in starts and ".lora." in leaf
        return isinstance(variable, nnx.Param) and (adapter or leaf.startswith(starts))

    return trained


def part_of(leaf: str) -> str:
    """The part that a leaf belongs to."""
    return next(part for start, part in PARTS.items() if leaf.startswith(start))


def used_parts(batch: Batch, config: GLaMMConfig) -> dict[str, Bool[Array, ""]]:
    """Which parts this batch's losses depend on. Padding up to the capacity does not count."""
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
        "unread": jnp.zeros((), bool),
    }


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """Rate of the n-th step, from 0: up in `warmup_steps`, then down to 0 at `total_steps`.

    Step 0 is the first of the warm-up and learns already (trap 29).
    """
    warmup, total = config.warmup_steps, config.total_steps

    def rate(step: Any) -> Array:
        share = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        if config.schedule == "linear_decay":
            share = jnp.minimum(share, (total - step) / max(total - warmup, 1))
        return config.peak_lr * jnp.maximum(share, 0.0)

    return rate


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Clip by the global norm, AdamW, schedule. `update` takes `touched=touched_parts(...)`.

    The clipping sees all gradients (an untouched part's are zero), the schedule counts all steps.
    """
    rule = optax.chain(
        optax.scale_by_adam(*config.betas, eps=config.eps)
        if config.muon_lr is None
        else _muon_and_adam(config, config.muon_lr),
        optax.add_decayed_weights(config.weight_decay),
    )
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        skip_unused_parts(rule) if config.unused_parts == "skip" else _by_leaf(rule),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
    return optax.with_extra_args_support(chain)


def is_block_matrix(leaf: str) -> bool:
    """Whether a leaf is a stack of matrices [layer, in, out] of a transformer's blocks."""
    return leaf.startswith(BLOCKS) and leaf.endswith(".kernel")


def _muon_and_adam(config: OptimConfig, muon_lr: float) -> optax.GradientTransformation:
    """Muon for the matrices of transformer blocks, each layer by itself, Adam for all else.

    Muon's move is orthogonal, times sqrt(max(1, out / in)); rates are in relation to `peak_lr`,
    by which the chain multiplies everything.
    """

    def layerwise(leaves: Any) -> Any:
        return {leaf: STACKED if is_block_matrix(leaf) else optax.MaskedNode() for leaf in leaves}

    def is_muons(leaves: Any) -> Any:
        return {leaf: is_block_matrix(leaf) for leaf in leaves}

    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=layerwise),
        optax.stateless(lambda moves, _: jax.tree.map(_times_shape, moves)),
        optax.scale(muon_lr / config.peak_lr),
    )
    adam = optax.scale_by_adam(*config.betas, eps=config.eps)
    return optax.partition({True: muon, False: adam}, is_muons)


def _times_shape(move: Float[Array, "l i o"]) -> Float[Array, "l i o"]:
    _, inner, outer = move.shape
    return max(1.0, outer / inner) ** 0.5 * move


def _by_leaf(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which sees {leaf path: value}, on the state of a model."""

    def init(params: Any) -> Any:
        return inner.init(flatten_state(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves: Any
        moves, state = inner.update(flatten_state(updates), state, flatten_state(params))
        return fill_state(updates, moves), state

    return optax.GradientTransformation(init, update)


def skip_unused_parts(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`inner` on each part by itself; an untouched part neither moves nor changes its state."""

    def init(params: Any) -> dict[str, Any]:
        return {part: inner.init(leaves) for part, leaves in _by_part(params).items()}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        touched: dict[str, Bool[Array, ""]] = extra["touched"]
        gradients, values = _by_part(updates), _by_part(params)
        moves: dict[str, Array] = {}
        states = {}
        for part, old in state.items():
            moved, new = inner.update(gradients[part], old, values[part])
            choose = partial(jnp.where, touched[part])
            moves |= jax.tree.map(lambda x, choose=choose: choose(x, 0), moved)
            states[part] = jax.tree.map(choose, new, old)
        return fill_state(updates, moves), states

    return optax.GradientTransformationExtraArgs(init, update)


def norms_by_part(gradients: nnx.State) -> dict[str, Array]:
    """The L2 norm of the gradient of each part."""
    return {part: optax.tree.norm(leaves) for part, leaves in _by_part(gradients).items()}


def _by_part(state: nnx.State) -> dict[str, dict[str, Array]]:
    """{part: {leaf: value}}."""
    parts: dict[str, dict[str, Array]] = {}
    for leaf, value in flatten_state(state).items():
        parts.setdefault(part_of(leaf), {})[leaf] = value
    return parts

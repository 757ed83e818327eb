"""Pretraining aids: two encoders learn to see before the language model learns to speak.

    tags    CLIP and the V-L projection: a linear head names the colour and the shape that cover
            most of each patch
    masks   SAM, its decoder and the L-P projection: prompted by the sum of a colour's and a shape's
            vector, which stand where a [SEG] will, they outline the thing

The heads are thrown away; what was learned of the model's own parts is kept under its own names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Float

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.miniworld import EASY, Scene, World, render_scene
from glamm_jax.miniworld.world import COLOURS, EASY_PALE, EASY_SEEN
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.sam.sam import SAM
from glamm_jax.nn.linear import Embedding, Linear
from glamm_jax.nn.mlp import MLP
from glamm_jax.nn.pixel_normalization import normalize_pixels
from glamm_jax.nn.resize import resize_map
from glamm_jax.training.losses import mask_losses
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.types import Array
from glamm_jax.weights.flat_state import flatten_state

COVERED = 0.6  # share of a patch's pixels, half of which one thing must cover to name it
BACKGROUND_WEIGHT = 0.3  # of patches without a thing, which are most
PROMPT_SCALE = 8.0  # brings the sum of two rows of a table to the size of a hidden state
PREFETCH = 4  # batches that are drawn ahead

Record = dict[str, Any]


class TagBatch(NamedTuple):
    """Pictures and what covers each patch: 0 for no thing, else 1 + its number."""

    images: Array  # uint8[I, H, W, 3]
    colours: Array  # int32[I, P]
    shapes: Array  # int32[I, P]


class MaskBatch(NamedTuple):
    """Pictures and things in them; `valid` marks the things, the rest is room to spare."""

    images: Array  # uint8[I, H, W, 3]
    colours: Array  # int32[M]; number of the colour
    shapes: Array  # int32[M]
    mask_image: Array  # int32[M]
    masks: Array  # uint8[M, H, W]
    valid: Array  # bool[M]


class PatchTags(nnx.Module):
    """CLIP, projector, and a linear head over the projected patches."""

    def __init__(self, config: GLaMMConfig, *, rngs: nnx.Rngs):
        clip, width = config.clip, config.llama.hidden_dim
        self.config, self.num_colours = clip, len(COLOURS)
        self.clip = CLIPVision(clip, rngs=rngs)
        self.projector = MLP(
            (clip.hidden_dim, width, width), config.projector_activation, rngs=rngs
        )
        classes = len(COLOURS) + len(EASY.shapes) + 2
        self.head = Linear(width, classes, ("embed", None), rngs=rngs)

    def loss(self, batch: TagBatch) -> tuple[Float[jax.Array, ""], dict[str, Array]]:
        """Cross-entropy of both tags; shares of the covered patches that are right."""
        config = self.config
        states = self.clip(normalize_pixels(batch.images, config.pixel_mean, config.pixel_std))
        scores = self.head(self.projector(self.clip.patch_features(states, config.projector_layer)))
        split = self.num_colours + 1
        covered = batch.colours > 0
        weight = jnp.where(covered, 1.0, BACKGROUND_WEIGHT)
        total, right = jnp.zeros(()), {}
        for name, logits, truth in (
            ("colour", scores[..., :split], batch.colours),
            ("shape", scores[..., split:], batch.shapes),
        ):
            each = optax.softmax_cross_entropy_with_integer_labels(logits, truth)
            total = total + (each * weight).sum() / weight.sum()
            hit = jnp.where(covered, logits.argmax(-1) == truth, 0)
            right[f"{name}_right"] = hit.sum() / covered.sum()
        return total, right


class PromptedMasks(nnx.Module):
    """SAM and L-P, prompted by a vector for each colour and one for each shape."""

    def __init__(self, config: GLaMMConfig, *, rngs: nnx.Rngs):
        width = config.llama.hidden_dim
        self.config = config.sam
        self.sam = SAM(config.sam, rngs=rngs)
        activation = config.text_projection_activation
        self.text_projection = MLP((width, width, config.sam.out_dim), activation, rngs=rngs)
        self.colour = Embedding(len(COLOURS), width, (None, "embed"), rngs=rngs)
        self.shape = Embedding(len(EASY.shapes), width, (None, "embed"), rngs=rngs)

    def loss(self, batch: MaskBatch) -> tuple[Float[jax.Array, ""], dict[str, Array]]:
        """The weighted mask losses of training; mean IoU."""
        config, dtype = self.config, jnp.float32
        pixels = normalize_pixels(batch.images, config.pixel_mean, config.pixel_std)
        prompt = self.colour(batch.colours, dtype) + self.shape(batch.shapes, dtype)
        prompt = self.text_projection(PROMPT_SCALE * prompt)[:, None]
        sparse, dense = self.sam.prompt_encoder(text=prompt)
        chosen = self.sam.encode(pixels)[batch.mask_image]
        low, _ = self.sam.decode(chosen, sparse, dense, multimask=False)
        size = batch.masks.shape[1:]
        logits = resize_map(low[:, 0, :, :, None], *size)[..., 0]
        inside = jnp.ones(batch.masks.shape, bool)
        bce, dice = mask_losses(logits, batch.masks, inside, batch.valid)
        found, truth = logits > 0, batch.masks > 0
        union = (found | truth).sum((1, 2))
        each = (found & truth).sum((1, 2)) / jnp.maximum(union, 1)
        iou = jnp.where(batch.valid, each, 0).sum() / batch.valid.sum()
        return 2.0 * bce + 0.5 * dice, {"iou": iou}


@dataclass(frozen=True)
class Aid:
    """One of the two aids, and how long it learns.

    Shapes are learned first where no colour excludes one: whoever sees early that red things are
    never stars will not take a red star for one.
    """

    name: str
    model: GLaMMConfig
    optim: OptimConfig
    image_size: int
    images: int = 16  # of a batch
    pale_steps: int = 0  # whose pictures are all of EASY_PALE; every other one is from then on
    seed: int = 0

    @property
    def module(self) -> type[PatchTags] | type[PromptedMasks]:
        return {"tags": PatchTags, "masks": PromptedMasks}[self.name]


def run_aid(aid: Aid) -> Iterator[tuple[Record, Callable[[], dict[str, Array]]]]:
    """Learn as records are asked for: each with what was learned so far, by leaf path."""
    model = aid.module(aid.model, rngs=nnx.Rngs(aid.seed))
    optimizer = make_optimizer(aid.optim)
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    opt_state = optimizer.init(state)

    def step(state: nnx.State, opt_state: Any, batch: Any) -> tuple:
        def loss(state: nnx.State) -> tuple:
            return nnx.merge(graph, state, rest, copy=True).loss(batch)

        (value, scores), gradients = jax.value_and_grad(loss, has_aux=True)(state)
        moves, opt_state = optimizer.update(gradients, opt_state, state)
        return optax.apply_updates(state, moves), opt_state, {"loss": value, **scores}

    compiled = jax.jit(step, donate_argnums=(0, 1))
    batches = _drawn_ahead(aid)
    for number in range(aid.optim.total_steps):
        started = time.perf_counter()
        state, opt_state, values = compiled(state, opt_state, next(batches))
        record: Record = {"step": number, **jax.tree.map(float, values)}
        record["seconds"] = round(time.perf_counter() - started, 4)
        yield record, partial(flatten_state, state)


def _drawn_ahead(aid: Aid) -> Iterator[TagBatch | MaskBatch]:
    """Batches of consecutive scenes, drawn in a thread meanwhile."""
    draw = tag_batch if aid.name == "tags" else mask_batch

    def batch(number: int) -> TagBatch | MaskBatch:
        first = number * aid.images
        ids = range(first, first + aid.images)
        scenes = [render_scene(aid.seed + 1, i, aid.image_size, _world(aid, i)) for i in ids]
        return draw(scenes, aid)

    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(batch, i) for i in range(PREFETCH)]
        for number in range(aid.optim.total_steps):
            yield waiting.pop(0).result()
            waiting.append(pool.submit(batch, number + PREFETCH))


def _world(aid: Aid, scene_id: int) -> World:
    is_pale = scene_id < aid.pale_steps * aid.images or (aid.pale_steps > 0 and scene_id % 2 == 1)
    return EASY_PALE if is_pale else EASY_SEEN


def tag_batch(scenes: list[Scene], aid: Aid) -> TagBatch:
    """What covers each patch of these scenes."""
    grid = aid.model.clip.grid_size
    side = aid.image_size // grid
    colours, shapes = (np.zeros((len(scenes), grid**2), np.int32) for _ in range(2))
    for i, one in enumerate(scenes):
        labels = one.rendering.labels.reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
        first = len(one.stuff)
        counts = [(labels == first + k).sum((2, 3)).ravel() for k in range(len(one.objects))]
        thing, most = np.argmax(counts, 0), np.max(counts, 0)
        covered = 2 * most > COVERED * side**2
        kinds = [_numbers(each.colour, each.shape) for each in one.objects]
        colour, shape = np.array(kinds).T + 1
        colours[i] = np.where(covered, colour[thing], 0)
        shapes[i] = np.where(covered, shape[thing], 0)
    return TagBatch(np.stack([one.image for one in scenes]), colours, shapes)


def mask_batch(scenes: list[Scene], aid: Aid) -> MaskBatch:
    """All things of these scenes with their masks."""
    most, size = EASY.num_objects[1], aid.image_size
    room = len(scenes) * most
    numbers, valid = np.zeros((room, 2), np.int32), np.zeros(room, bool)
    masks = np.zeros((room, size, size), np.uint8)
    for i, one in enumerate(scenes):
        for k, thing in enumerate(one.objects):
            at = i * most + k
            numbers[at] = _numbers(thing.colour, thing.shape)
            masks[at], valid[at] = one.object_mask(k), True
    mask_image = np.repeat(np.arange(len(scenes), dtype=np.int32), most)
    images = np.stack([one.image for one in scenes])
    return MaskBatch(images, numbers[:, 0], numbers[:, 1], mask_image, masks, valid)


def _numbers(colour: str, shape: str) -> tuple[int, int]:
    return list(COLOURS).index(colour), EASY.shapes.index(shape)

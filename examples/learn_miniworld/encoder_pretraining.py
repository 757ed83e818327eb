"""Pretraining of the two encoders, before the language model is trained.

    clip    CLIP and the V-L projection: a linear head classifies the colour and the shape of the
            object that covers most of each patch
    sam     SAM, its decoder and the L-P projection: the sum of an embedding of a colour and one of
            a shape takes the place of the hidden state of [SEG], and the decoder segments the
            object

The heads and embeddings are discarded; the leaves of the model's own parts keep their paths.
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
from glamm_jax.miniworld.world import COLOURS, WORLDS
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

MIN_COVERAGE = 0.3  # share of a patch's pixels that an object must cover to be its class
BACKGROUND_WEIGHT = 0.3  # of patches without an object, which are the majority
PROMPT_SCALE = 8.0  # brings the sum of two embeddings to the norm of a hidden state
NUM_PREFETCHED = 4  # batches that are rendered ahead

Record = dict[str, Any]


class PatchBatch(NamedTuple):
    """Images and the classes of their patches: 0 for background, else 1 + the class index."""

    images: Array  # uint8[I, H, W, 3]
    colours: Array  # int32[I, P]
    shapes: Array  # int32[I, P]


class ObjectBatch(NamedTuple):
    """Images and the objects in them; the objects are padded, `valid` marks the real ones."""

    images: Array  # uint8[I, H, W, 3]
    colours: Array  # int32[M], indices into COLOURS
    shapes: Array  # int32[M], indices into EASY.shapes
    image_of_mask: Array  # int32[M]
    masks: Array  # uint8[M, H, W]
    valid: Array  # bool[M]


class PatchClassifier(nnx.Module):
    """CLIP, the V-L projection, and a linear head on the projected patches."""

    def __init__(self, config: GLaMMConfig, *, rngs: nnx.Rngs):
        clip, width = config.clip, config.llama.hidden_dim
        self.config, self.num_colours = clip, len(COLOURS)
        self.clip = CLIPVision(clip, rngs=rngs)
        self.projector = MLP(
            (clip.hidden_dim, width, width), config.projector_activation, rngs=rngs
        )
        num_classes = len(COLOURS) + len(EASY.shapes) + 2
        self.head = Linear(width, num_classes, ("embed", None), rngs=rngs)

    def loss(self, batch: PatchBatch) -> tuple[Float[jax.Array, ""], dict[str, Array]]:
        """Return the cross-entropy of both classes, and their accuracy on covered patches."""
        config = self.config
        states = self.clip(normalize_pixels(batch.images, config.pixel_mean, config.pixel_std))
        logits = self.head(self.projector(self.clip.patch_features(states, config.projector_layer)))
        split = self.num_colours + 1
        covered = batch.colours > 0
        weight = jnp.where(covered, 1.0, BACKGROUND_WEIGHT)
        total, accuracy = jnp.zeros(()), {}
        for name, class_logits, labels in (
            ("colour", logits[..., :split], batch.colours),
            ("shape", logits[..., split:], batch.shapes),
        ):
            losses = optax.softmax_cross_entropy_with_integer_labels(class_logits, labels)
            total = total + (losses * weight).sum() / weight.sum()
            correct = jnp.where(covered, class_logits.argmax(-1) == labels, 0)
            accuracy[f"{name}_accuracy"] = correct.sum() / covered.sum()
        return total, accuracy


class PromptedSegmenter(nnx.Module):
    """SAM and the L-P projection, prompted by the embeddings of a colour and of a shape."""

    def __init__(self, config: GLaMMConfig, *, rngs: nnx.Rngs):
        width = config.llama.hidden_dim
        self.config = config.sam
        self.sam = SAM(config.sam, rngs=rngs)
        activation = config.text_projection_activation
        self.text_projection = MLP((width, width, config.sam.out_dim), activation, rngs=rngs)
        self.colour = Embedding(len(COLOURS), width, (None, "embed"), rngs=rngs)
        self.shape = Embedding(len(EASY.shapes), width, (None, "embed"), rngs=rngs)

    def loss(self, batch: ObjectBatch) -> tuple[Float[jax.Array, ""], dict[str, Array]]:
        """Return the weighted mask losses of GLaMM's training, and the mean IoU."""
        config, dtype = self.config, jnp.float32
        pixels = normalize_pixels(batch.images, config.pixel_mean, config.pixel_std)
        prompt = self.colour(batch.colours, dtype) + self.shape(batch.shapes, dtype)
        prompt = self.text_projection(PROMPT_SCALE * prompt)[:, None]
        sparse, dense = self.sam.prompt_encoder(text=prompt)
        features = self.sam.encode(pixels)[batch.image_of_mask]
        low_res, _ = self.sam.decode(features, sparse, dense, multimask=False)
        size = batch.masks.shape[1:]
        logits = resize_map(low_res[:, 0, :, :, None], *size)[..., 0]
        inside = jnp.ones(batch.masks.shape, bool)
        bce, dice = mask_losses(logits, batch.masks, inside, batch.valid)
        predicted, reference = logits > 0, batch.masks > 0
        union = (predicted | reference).sum((1, 2))
        ious = (predicted & reference).sum((1, 2)) / jnp.maximum(union, 1)
        mean_iou = jnp.where(batch.valid, ious, 0).sum() / batch.valid.sum()
        return 2.0 * bce + 0.5 * dice, {"iou": mean_iou}


@dataclass(frozen=True)
class EncoderPretraining:
    """The pretraining of one encoder.

    Shapes are learned first in a world where every colour occurs on every shape: an encoder that
    sees early that red objects are never stars does not recognize a red star later.

    Attributes:
        encoder: "clip" or "sam".
        model: sizes of the model.
        optim: of the run.
        image_size: width and height of the scenes in pixels.
        worlds: names in WORLDS; scenes are of each in turn.
        images: number of images of a batch.
        num_first_steps: steps at the beginning with scenes of the first world only.
        seed: of weights and scenes.
    """

    encoder: str
    model: GLaMMConfig
    optim: OptimConfig
    image_size: int
    worlds: tuple[str, ...]
    images: int = 16
    num_first_steps: int = 0
    seed: int = 0

    @property
    def module(self) -> type[PatchClassifier] | type[PromptedSegmenter]:
        return {"clip": PatchClassifier, "sam": PromptedSegmenter}[self.encoder]


def pretrain(
    config: EncoderPretraining,
) -> Iterator[tuple[Record, Callable[[], dict[str, Array]]]]:
    """Train step by step.

    Args:
        config: of the run.

    Yields:
        For every step its metrics, and a function that returns the leaves by path.
    """
    model = config.module(config.model, rngs=nnx.Rngs(config.seed))
    optimizer = make_optimizer(config.optim)
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    opt_state = optimizer.init(state)

    def step(state: nnx.State, opt_state: Any, batch: Any) -> tuple:
        def loss(state: nnx.State) -> tuple:
            return nnx.merge(graph, state, rest, copy=True).loss(batch)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state)
        updates, opt_state = optimizer.update(gradients, opt_state, state)
        return optax.apply_updates(state, updates), opt_state, {"loss": value, **metrics}

    compiled_step = jax.jit(step, donate_argnums=(0, 1))
    batches = _prefetch_batches(config)
    for number in range(config.optim.total_steps):
        started = time.perf_counter()
        state, opt_state, metrics = compiled_step(state, opt_state, next(batches))
        record: Record = {"step": number, **jax.tree.map(float, metrics)}
        record["seconds"] = round(time.perf_counter() - started, 4)
        yield record, partial(flatten_state, state)


def _prefetch_batches(config: EncoderPretraining) -> Iterator[PatchBatch | ObjectBatch]:
    """Render batches of consecutive scenes in a thread, ahead of the steps."""
    make_batch = patch_batch if config.encoder == "clip" else object_batch

    def render(number: int) -> PatchBatch | ObjectBatch:
        first = number * config.images
        ids = range(first, first + config.images)
        seed, size = config.seed + 1, config.image_size
        return make_batch([render_scene(seed, i, size, _world(config, i)) for i in ids], config)

    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(render, i) for i in range(NUM_PREFETCHED)]
        for number in range(config.optim.total_steps):
            yield pending.pop(0).result()
            pending.append(pool.submit(render, number + NUM_PREFETCHED))


def _world(config: EncoderPretraining, scene_id: int) -> World:
    is_first = scene_id < config.num_first_steps * config.images
    return WORLDS[config.worlds[0 if is_first else scene_id % len(config.worlds)]]


def patch_batch(scenes: list[Scene], config: EncoderPretraining) -> PatchBatch:
    """Return the images of scenes with the classes of their patches."""
    grid = config.model.clip.grid_size
    side = config.image_size // grid
    colours, shapes = (np.zeros((len(scenes), grid**2), np.int32) for _ in range(2))
    for i, scene in enumerate(scenes):
        labels = scene.rendering.labels.reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
        first = len(scene.stuff)
        counts = [(labels == first + k).sum((2, 3)).ravel() for k in range(len(scene.objects))]
        largest, count = np.argmax(counts, 0), np.max(counts, 0)
        covered = count > MIN_COVERAGE * side**2
        classes = [_class_indices(item.colour, item.shape) for item in scene.objects]
        colour, shape = np.array(classes).T + 1
        colours[i] = np.where(covered, colour[largest], 0)
        shapes[i] = np.where(covered, shape[largest], 0)
    return PatchBatch(np.stack([scene.image for scene in scenes]), colours, shapes)


def object_batch(scenes: list[Scene], config: EncoderPretraining) -> ObjectBatch:
    """Return the images of scenes with the masks of their objects, padded to one shape."""
    max_objects, size = EASY.num_objects[1], config.image_size
    num_masks = len(scenes) * max_objects
    classes, valid = np.zeros((num_masks, 2), np.int32), np.zeros(num_masks, bool)
    masks = np.zeros((num_masks, size, size), np.uint8)
    for i, scene in enumerate(scenes):
        for k, item in enumerate(scene.objects):
            slot = i * max_objects + k
            classes[slot] = _class_indices(item.colour, item.shape)
            masks[slot], valid[slot] = scene.object_mask(k), True
    image_of_mask = np.repeat(np.arange(len(scenes), dtype=np.int32), max_objects)
    images = np.stack([scene.image for scene in scenes])
    return ObjectBatch(images, classes[:, 0], classes[:, 1], image_of_mask, masks, valid)


def _class_indices(colour: str, shape: str) -> tuple[int, int]:
    return list(COLOURS).index(colour), EASY.shapes.index(shape)


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m examples.learn_miniworld")

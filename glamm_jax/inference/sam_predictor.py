"""SAM by itself: masks for boxes and points of an image.

    predictor = SAMPredictor("sam")                       # a model folder of SAM or of GLaMM
    image = predictor.encode(pixels)                      # once per image
    prompts = predictor.decode(image, boxes=[[10, 20, 110, 220]])
    masks = predictor.masks(image, prompts.logits[:, 0])

Prompts are in pixels of the image. Their number is padded to `PROMPTS_PER_CALL`, so that few
programs are compiled.

Source: segment_anything/predictor.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from glamm_jax.config import DType, GLaMMConfig, SAMConfig
from glamm_jax.data.collate import bucket
from glamm_jax.data.preprocess import grounding_image
from glamm_jax.errors import FolderError
from glamm_jax.inference.compiled import CompiledFunction, ModelWeights
from glamm_jax.inference.mask_programs import foreground_probability
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.nn.pixel_normalization import normalize_pixels
from glamm_jax.storage import AnyPath
from glamm_jax.weights.folder import ModelFolder

PROMPTS_PER_CALL = 64
MASKS_PER_CALL = 16  # that are resized to the image together
FOREGROUND = 1  # label of a point


class EncodedImage(NamedTuple):
    """An image that masks are decoded from.

    Attributes:
        embedding: of SAM's image encoder.
        resized_size: height and width of the image inside the canvas.
        original_size: height and width of the image.
    """

    embedding: Float[Array, "1 s s c"]
    resized_size: tuple[int, int]
    original_size: tuple[int, int]


class DecodedPrompts(NamedTuple):
    """Masks of prompts before they are resized.

    Attributes:
        logits: of each prompt, at a quarter of the canvas; one mask, or several.
        iou: SAM's estimate of the IoU of each.
    """

    logits: Float[np.ndarray, "m k s s"]
    iou: Float[np.ndarray, "m k"]


class PromptMasks(NamedTuple):
    """Masks at the size of the image.

    Attributes:
        masks: the masks.
        foreground: mean probability of the pixels of each; 0 for an empty mask.
        stability: IoU of the masks at both thresholds; 0 for an empty one.
    """

    masks: Bool[np.ndarray, "m h w"]
    foreground: Float[np.ndarray, "m"]
    stability: Float[np.ndarray, "m"]


class SAMPredictor:
    """The image encoder, prompt encoder and mask decoder of a model folder.

    Args:
        path: a model folder of SAM or of GLaMM.
        dtype: of the weights and of the computation; None: as stored.

    Raises:
        FolderError, ConfigError, TensorFileError: the folder cannot be used.
    """

    def __init__(self, path: str | AnyPath, dtype: DType | None = None):
        folder = ModelFolder(path)
        if isinstance(folder.config, GLaMMConfig):
            self.config, prefix = folder.config.sam, "sam."
        elif isinstance(folder.config, SAMConfig):
            self.config, prefix = folder.config, ""
        else:
            raise FolderError(f"{folder.path}: has no SAM; give a model folder of SAM or of GLaMM")
        graph, state = abstract_model(self.config)
        self._weights = ModelWeights(graph, folder.fill(state, dtype, prefix))
        self._dtype = jnp.dtype(dtype or "float32")

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> EncodedImage:
        """Encode an upright RGB image."""
        pixels, resized, original = grounding_image(image, self.config.image_size)
        embedding = _encode(
            self._weights,
            pixels[None],
            np.array([resized], np.int32),
            config=self.config,
            dtype=self._dtype.name,
        )
        return EncodedImage(embedding, resized, original)

    def decode(
        self,
        image: EncodedImage,
        *,
        boxes: Any = None,
        points: Any = None,
        multimask: bool = False,
    ) -> DecodedPrompts:
        """Decode the masks of boxes, or of points of the foreground, each a prompt of its own.

        Args:
            image: of `encode`.
            boxes: float[m, 4], x0 y0 x1 y1 in pixels of the image.
            points: float[m, 2], x y in pixels of the image; instead of boxes.
            multimask: decode `config.num_multimasks` masks of each prompt instead of one.
        """
        kind = "points" if boxes is None else "boxes"
        prompts = np.asarray(points if boxes is None else boxes, np.float32)
        prompts = prompts.reshape(-1, 2 if boxes is None else 4)
        (height, width), (old_height, old_width) = image.resized_size, image.original_size
        scale = np.array([width / old_width, height / old_height], np.float32)
        prompts = prompts * np.tile(scale, prompts.shape[1] // 2)
        logits, iou = [], []
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            part = prompts[start : start + PROMPTS_PER_CALL]
            padded = np.resize(part, (PROMPTS_PER_CALL, part.shape[1]))
            decoded = _decode(
                self._weights, image.embedding, padded, kind=kind, multimask=multimask
            )
            logits.append(np.asarray(decoded[0])[: len(part)])
            iou.append(np.asarray(decoded[1])[: len(part)])
        if not logits:
            count, side = self.config.num_multimasks if multimask else 1, self.config.mask_size
            return DecodedPrompts(
                np.zeros((0, count, side, side), np.float32), np.zeros((0, count), np.float32)
            )
        return DecodedPrompts(np.concatenate(logits), np.concatenate(iou))

    def masks(
        self, image: EncodedImage, logits: Float[np.ndarray, "m s s"], offset: float = 1.0
    ) -> PromptMasks:
        """Resize masks to the image.

        Args:
            image: of `encode`.
            logits: some of `DecodedPrompts.logits`.
            offset: distance of the two thresholds of the stability from 0.
        """
        height, width = image.original_size
        size = bucket(height, 1), bucket(width, 1)
        parts = []
        for start in range(0, len(logits), MASKS_PER_CALL):
            part = logits[start : start + MASKS_PER_CALL]
            padded = np.concatenate([part, np.repeat(part[:1], MASKS_PER_CALL - len(part), 0)])
            resized = _resize(
                padded,
                np.tile(np.array(image.resized_size, np.int32), (MASKS_PER_CALL, 1)),
                np.tile(np.array(image.original_size, np.int32), (MASKS_PER_CALL, 1)),
                np.float32(offset),
                canvas_size=self.config.image_size,
                size=size,
            )
            masks, foreground, stability = (np.asarray(x)[: len(part)] for x in resized)
            parts.append((masks[:, :height, :width], foreground, stability))
        if not parts:
            none = np.zeros(0, np.float32)
            return PromptMasks(np.zeros((0, height, width), bool), none, none)
        return PromptMasks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@partial(CompiledFunction, static_argnames=("config", "dtype"))
def _encode(
    weights: ModelWeights,
    pixels: UInt8[Array, "1 h w 3"],
    resized: Int[Array, "1 2"],
    *,
    config: SAMConfig,
    dtype: str,
) -> Float[Array, "1 s s c"]:
    normalized = normalize_pixels(pixels, config.pixel_mean, config.pixel_std, resized)
    return weights.merge().encode(normalized.astype(dtype))


@partial(CompiledFunction, static_argnames=("kind", "multimask"))
def _decode(
    weights: ModelWeights,
    embedding: Float[Array, "1 s s c"],
    prompts: Float[Array, "m n"],
    *,
    kind: str,
    multimask: bool,
) -> tuple[Float[Array, "m k t t"], Float[Array, "m k"]]:
    model = weights.merge()
    embeddings = jnp.broadcast_to(embedding, (len(prompts), *embedding.shape[1:]))
    if kind == "boxes":
        arguments = {"boxes": prompts}
    else:
        labels = jnp.full((len(prompts), 1), FOREGROUND, jnp.int32)
        arguments = {"points": prompts[:, None], "labels": labels}
    logits, iou = model.predict_masks(embeddings, multimask=multimask, **arguments)
    return logits.astype(jnp.float32), iou.astype(jnp.float32)


@partial(CompiledFunction, static_argnames=("canvas_size", "size"))
def _resize(
    low_res: Float[Array, "m s s"],
    resized: Int[Array, "m 2"],
    original: Int[Array, "m 2"],
    offset: Float[Array, ""],
    *,
    canvas_size: int,
    size: tuple[int, int],
) -> tuple[Bool[Array, "m h w"], Float[Array, "m"], Float[Array, "m"]]:
    """Resize mask logits; the masks, their foreground probability and their stability."""
    logits = postprocess_masks(low_res, resized, original, canvas_size, size)
    rows = jnp.arange(size[0])[None, :, None] < original[:, 0, None, None]
    columns = jnp.arange(size[1])[None, None, :] < original[:, 1, None, None]
    inside = rows & columns  # outside the logits are 0, which a negative threshold passes
    high = (inside & (logits > offset)).sum((1, 2))
    low = (inside & (logits > -offset)).sum((1, 2))
    return logits > 0, foreground_probability(logits), high / jnp.maximum(low, 1)

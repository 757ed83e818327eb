"""Oracles: roles that answer from the truth about mini-world scenes, for tests and measurements.

    write_scenes("scenes", FULL, count=100)
    detector = OracleDetector("scenes", "detector-1", NOISE["easy"])
    detector.setup()
    detector([RoleImage("scene_000000", pixels)])[0][0].label       # "star"

Here: the oracles that get an image and nothing else. A folder of scenes is written by
`glamm_jax.miniworld.truth_folder`; `glamm_jax.grand.adapters` has all oracles by their role.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float32
from numba import njit

from glamm_jax.data import rle
from glamm_jax.grand.adapters.noise import NO_NOISE, NoiseOptions, seeded_random
from glamm_jax.grand.geometry import plain_iou
from glamm_jax.grand.record import Box, Detection, RunLengths
from glamm_jax.grand.roles import LANDMARKS, Landmark, Results, RoleError, RoleImage, Tag
from glamm_jax.miniworld.captions import with_article
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.truth_folder import (
    NEAR_RANGE,
    ObjectTruth,
    SceneTruth,
    TruthFolder,
    open_truth,
    overview,
    statement,
)
from glamm_jax.miniworld.world import COLOURS, TEXTURES

FREE_IOU = 0.3  # largest overlap of a false positive with an object
FREE_ATTEMPTS = 5  # to place one


class OracleRole:
    """What all oracles have in common.

    Args:
        folder: written by `write_scenes`.
        name: of the model that it stands for; models with different names err independently.
        noise: how often it errs.

    Attributes:
        name: of the model.
        fingerprint: changes with the scenes, the name, the noise and the options.
        needs_device: False.

    Raises:
        GLaMMError: it is not such a folder.
    """

    needs_device = False

    def __init__(
        self,
        folder: Path | str,
        name: str = "",
        noise: NoiseOptions = NO_NOISE,
        **options: Any,
    ):
        self._folder, self.noise = folder, noise
        self.name = name or type(self).__name__
        scenes = open_truth(folder).description
        content = [type(self).__name__, self.name, asdict(noise), scenes, options]
        digest = sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        self.fingerprint = f"{type(self).__name__}-{digest[:16]}"
        self._truth: TruthFolder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open folder, which each worker opens for itself."""
        return self.__dict__ | {"_truth": None}

    def setup(self) -> None:
        """Open the folder."""
        self._truth = open_truth(self._folder)

    def random(self, truth: SceneTruth, *key: object) -> random.Random:
        """Return the random generator of an image; `key` distinguishes several."""
        return seeded_random(truth.image_id, self.name, *key)

    def find(self, image: RoleImage) -> SceneTruth | RoleError:
        """Return the truth about an image, or why it cannot be processed."""
        if self._truth is None:
            self.setup()
        assert self._truth is not None
        truth = self._truth.find(image.image_id)
        if truth is None:
            return RoleError("input", f"no scene {image.image_id!r}")
        if image.pixels.shape != (truth.size, truth.size, 3):
            shape = "x".join(map(str, image.pixels.shape))
            return RoleError("input", f"pixels of shape {shape}, the scene has size {truth.size}")
        chance = self.noise.corrupt_images
        if chance and seeded_random(truth.image_id, "corrupt").random() < chance:
            return RoleError("input", "corrupt image")
        return truth

    def answer_each(
        self, images: Sequence[RoleImage], answer: Callable[..., Any], *columns: Sequence[Any]
    ) -> list[Any]:
        """Return the answer to each image, or its error.

        Args:
            images: the batch.
            answer: function of the truth about an image and its element of each of `columns`.
            columns: further inputs, each as long as the batch.
        """
        results = []
        for image, *inputs in zip(images, *columns, strict=True):
            truth = self.find(image)
            is_error = isinstance(truth, RoleError)
            results.append(truth if is_error else answer(truth, *inputs))
        return results


class OracleTagger(OracleRole):
    """Shapes, stuff and place."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Tag]]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> list[Tag]:
        draw = self.random(truth).random
        words = [item.shape for item in truth.objects] + [stuff.name for stuff in truth.stuff]
        tags = [Tag(word, round(0.7 + 0.3 * draw(), 4)) for word in dict.fromkeys(words)]
        tags.append(Tag(truth.place, 0.7))
        return [tag for tag in tags if draw() >= self.noise.tag_misses]


class OracleDetector(OracleRole):
    """Objects with their shapes as labels.

    Args:
        folder: written by `write_scenes`.
        name: of the model.
        noise: how often it errs.
        masks: whether detections have masks.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str = "",
        noise: NoiseOptions = NO_NOISE,
        masks: bool = False,
    ):
        super().__init__(folder, name, noise, masks=masks)
        self._masks = masks

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> list[Detection]:
        return detect(self, truth, SHAPES, masks=self._masks)


class OracleOpenDetector(OracleRole):
    """Objects whose shapes are asked for; stuff and places are no objects."""

    def __call__(
        self, images: Sequence[RoleImage], classes: Sequence[Sequence[str]]
    ) -> Results[list[Detection]]:
        return self.answer_each(images, self._answer, classes)

    def _answer(self, truth: SceneTruth, classes: Sequence[str]) -> list[Detection]:
        return detect(self, truth, [name for name in SHAPES if name in set(classes)])


class OracleDenseCaptioner(OracleRole):
    """Objects with descriptions."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> list[Detection]:
        return detect(self, truth, SHAPES, describe=True)


class OracleProposer(OracleRole):
    """Objects, stuff and parts, without labels."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> list[Detection]:
        rng = self.random(truth)
        result = []
        for item in (*truth.objects, *truth.stuff, *truth.parts):
            missed, score, width = rng.random(), rng.random(), rng.random()
            if missed >= self.noise.proposal_misses:
                box, mask = eroded(truth, item.box, item.counts, self.noise.mask_erosion, width)
                result.append(Detection(box, round(0.85 + 0.15 * score, 4), mask=mask))
        return result


class OracleDepthEstimator(OracleRole):
    """Depth of each object and of the ground; sky and walls are behind everything."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[Float32[np.ndarray, "h w"]]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> Float32[np.ndarray, "h w"]:
        if not self.noise.depth_noise:
            return truth.depth_map()
        rng, deviation = self.random(truth), self.noise.depth_noise * NEAR_RANGE
        offsets = [rng.gauss(0.0, deviation) for _ in truth.objects]
        # No depth becomes negative.
        return truth.depth_map(
            tuple(max(x, 0.01 - i.depth) for x, i in zip(offsets, truth.objects, strict=True))
        )


class OracleLandmarkClassifier(OracleRole):
    """The kind of place."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[Landmark]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> Landmark:
        rng = self.random(truth)
        if rng.random() >= self.noise.landmark_errors:
            return Landmark(*truth.landmark)
        pairs = [(main, fine) for main in LANDMARKS for fine in LANDMARKS[main]]
        return Landmark(*rng.choice([pair for pair in pairs if pair != truth.landmark]))


class OracleCaptioner(OracleRole):
    """One sentence.

    Args:
        folder: written by `write_scenes`.
        name: of the model.
        noise: how often it errs.
        style: "relation" names the largest object and one that it is related to; "overview" the
            place and all objects.

    Raises:
        KeyError: there is no such style.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str = "",
        noise: NoiseOptions = NO_NOISE,
        style: str = "overview",
    ):
        super().__init__(folder, name, noise, style=style)
        self._caption_index = {"relation": 0, "overview": 1}[style]

    def __call__(self, images: Sequence[RoleImage]) -> Results[str]:
        return self.answer_each(images, self._answer)

    def _answer(self, truth: SceneTruth) -> str:
        caption, noise, rng = truth.captions[self._caption_index], self.noise, self.random(truth)
        invents = rng.random() < noise.caption_inventions
        present = {(item.colour, item.shape) for item in truth.objects}
        extra = with_article(" ".join(invented_kind(rng, present))) if invents else ""
        named = [i for _, _, ids in caption.phrases for i in ids]
        included = [i for i in named if rng.random() >= noise.caption_omissions]
        included = included or named[:1]
        if not extra and included == named:
            return caption.text
        if self._caption_index:
            return overview(truth.place_text, truth.objects, included, extra).text
        text = caption.text
        if included != named:
            text = statement(truth.objects, included[0], "", included[0]).text
        return text if not extra else f"{text[:-1]}, near {extra}."


def detect(
    role: OracleRole,
    truth: SceneTruth,
    labels: Collection[str],
    *,
    describe: bool = False,
    masks: bool = False,
) -> list[Detection]:
    """Return the detections of a scene with the errors of a role, the best score first.

    Args:
        role: whose name and noise are used.
        truth: about the scene.
        labels: shapes that can be detected.
        describe: return descriptions instead of labels.
        masks: return masks.
    """
    noise, rng = role.noise, role.random(truth)
    draw = rng.random
    result = []
    for item in truth.objects:
        missed, confused, wrong, width, score = draw(), draw(), draw(), draw(), draw()
        choice, shifts = seeded_choice(draw()), gauss_numbers(rng, 4, bool(noise.box_jitter))
        if item.shape not in labels or missed < noise.misses:
            continue
        label: str | None = item.shape
        description = None
        if confused < noise.label_confusion:
            label = choice([name for name in labels if name != item.shape] or [item.shape])
        if describe:
            described = (
                with_wrong_property(item, choice) if wrong < noise.attribute_errors else item
            )
            label, description = None, described.description
        box, mask = item.box, None
        if masks:
            _, mask = eroded(truth, box, item.counts, noise.mask_erosion, width)
        if noise.box_jitter:
            box = _jittered(box, noise.box_jitter, shifts, truth.size)
        result.append(Detection(box, round(0.8 + 0.18 * score, 4), label, description, mask))
    if noise.false_positives and labels:
        result += _false_positives(role, truth, labels, describe, masks)
    return sorted(result, key=lambda detection: -detection.score)


def _false_positives(
    role: OracleRole, truth: SceneTruth, labels: Collection[str], describe: bool, masks: bool
) -> list[Detection]:
    """Return boxes at random places that contain no object."""
    rng, size = role.random(truth, "false positives"), truth.size
    # A Poisson number, by the product of uniform numbers.
    number, product, limit = 0, rng.random(), math.exp(-role.noise.false_positives)
    while product > limit:
        number, product = number + 1, product * rng.random()
    result = []
    for _ in range(number):
        label, colour, score = rng.choice(list(labels)), rng.choice(list(COLOURS)), rng.random()
        for _ in range(FREE_ATTEMPTS):
            width, height = (size * (0.1 + 0.25 * rng.random()) for _ in range(2))
            x, y = (size - width) * rng.random(), (size - height) * rng.random()
            box = (round(x, 2), round(y, 2), round(x + width, 2), round(y + height, 2))
            if max(plain_iou(box, item.box) for item in truth.objects) < FREE_IOU:
                text = with_article(f"{colour} {label}")
                mask = box_mask(truth, box) if masks else None
                words = (None, text) if describe else (label, None)
                result.append(Detection(box, round(0.3 + 0.6 * score, 4), *words, mask))
                break
    return result


def _jittered(box: Box, deviation: float, shifts: Sequence[float], size: int) -> Box:
    """Return the box with moved edges, inside the image and at least one pixel wide and high."""
    x0, y0, x1, y1 = box
    x, y = deviation * (x1 - x0), deviation * (y1 - y0)
    left = min(max(x0 + x * shifts[0], 0.0), size - 1.0)
    top = min(max(y0 + y * shifts[1], 0.0), size - 1.0)
    right = min(max(x1 + x * shifts[2], left + 1.0), float(size))
    bottom = min(max(y1 + y * shifts[3], top + 1.0), float(size))
    return round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)


def gauss_numbers(rng: random.Random, count: int, needed: bool) -> list[float]:
    """Return an even number of standard normal values.

    Args:
        rng: draws them.
        count: of the values.
        needed: False returns others, and leaves the generator in the same state in less time.
    """
    return [rng.gauss(0.0, 1.0) if needed else rng.random() for _ in range(count)]


def seeded_choice(value: float) -> Callable[[Sequence[Any]], Any]:
    """Return a function that chooses from a list by a number in [0, 1)."""
    return lambda choices: choices[int(value * len(choices))]


def with_wrong_property(item: ObjectTruth, choice: Callable[[Sequence[Any]], Any]) -> ObjectTruth:
    """Return the object with another colour, texture or size."""
    others = [replace(item, colour=name) for name in COLOURS if name != item.colour]
    others += [replace(item, texture=name) for name in TEXTURES[1:] if name != item.texture]
    if item.size:
        others.append(replace(item, size="small" if item.size == "large" else "large"))
    return choice(others)


def invented_kind(rng: random.Random, present: Collection[tuple[str, str]]) -> tuple[str, str]:
    """Return colour and shape of an object that a scene does not have."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return rng.choice([kind for kind in kinds if kind not in present])


def box_mask(truth: SceneTruth, box: Box) -> RunLengths:
    """Return the mask of all pixels of a box."""
    size = truth.size
    x0, y0 = (min(int(edge), size - 1) for edge in box[:2])
    x1, y1 = max(min(math.ceil(box[2]), size), x0 + 1), max(min(math.ceil(box[3]), size), y0 + 1)
    runs = [x0 * size + y0]
    if y1 - y0 == size:
        runs += [(x1 - x0) * size]
    else:
        runs += [y1 - y0, size - y1 + y0] * (x1 - x0 - 1) + [y1 - y0]
    runs.append(size * size - sum(runs))
    return rle.compress({"size": [size, size], "counts": runs})


def eroded(
    truth: SceneTruth, box: Box, counts: str, share: float, draw: float
) -> tuple[Box, RunLengths]:
    """Return box and run lengths of a mask that lost rows; at least some of it remains.

    Each run of pixels down a column becomes shorter at both ends; no mask is decoded.

    Args:
        truth: about the scene.
        box: of the mask.
        counts: its compressed run lengths.
        share: mean number of rows removed at either end, in square roots of the mask's area.
        draw: uniform random number; the number of rows is 0.5 to 1.5 times the mean.
    """
    mask = truth.run_lengths(counts)
    if not share:
        return box, mask
    (height, width), ends = rle.run_ends(mask)
    lengths, smaller_box = _shorten_runs(ends, height, width, share * (0.5 + draw))
    if not len(lengths):
        return box, mask
    return smaller_box, rle.compress({"size": [height, width], "counts": lengths})


@njit(cache=True, nogil=True)
@no_type_check
def _shorten_runs(ends, height, width, share):
    """Return the lengths of the shorter runs and their box; no lengths if nothing changes."""
    longest = area = 0
    for i in range(1, len(ends), 2):
        length = ends[i] - ends[i - 1]
        longest, area = max(longest, length), area + length
    depth = min(int(share * np.sqrt(area) + 0.5), (longest - 1) // 2)
    lengths, num_lengths, last = np.zeros(len(ends) + 1, np.int64), 0, 0
    x0, x1, top, bottom = width, 0, height, 0
    for i in range(1, len(ends) if depth > 0 else 0, 2):
        start, end = ends[i - 1] + depth, ends[i] - depth
        if start >= end:
            continue
        lengths[num_lengths], lengths[num_lengths + 1] = start - last, end - start
        num_lengths, last = num_lengths + 2, end
        left, right = start // height, (end - 1) // height
        x0, x1 = min(x0, left), max(x1, right + 1)
        # A run that goes on in the next column has the full height.
        top = min(top, start - left * height if left == right else 0)
        bottom = max(bottom, end - left * height if left == right else height)
    if num_lengths:
        lengths[num_lengths] = height * width - last
        num_lengths += 1
    return lengths[:num_lengths], (float(x0), float(top), float(x1), float(bottom))

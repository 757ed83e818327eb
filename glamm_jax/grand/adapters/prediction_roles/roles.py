"""Roles whose results are in files.

    [region_proposer]
    class = "files"
    path = "sa_000020"                  # folder with SA-1B's IMAGE.json

    [detectors.co_detr]
    class = "files"
    path = "predictions/co_detr"        # GranD's layout, .jsonl, or COCO results with `images`

An image that the files do not have is an error of kind "input", which the run counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.files import read_regular_file
from glamm_jax.grand.adapters.prediction_roles.sources import (
    PredictionSource,
    file_beside,
    fingerprint_of,
    open_source,
)
from glamm_jax.grand.prediction_files import detection_from_json, proposals_of
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import Landmark, Results, RoleError, RoleImage, Tag
from glamm_jax.grand.stages import one_line
from glamm_jax.json_files import JSONError, JSONObject, show

# A box may leave the image by this share of its side, as those of many detectors do; one that
# leaves it by more belongs to an image of another size.
MAX_OUTSIDE = 0.05
MAX_DEPTH_BYTES = 1 << 30
MAX_CAPTION_BYTES = 1 << 16


class PredictionContentError(GLaMMError):
    """What a file says about an image cannot be used."""


class PredictionRole:
    """A role whose results are in files.

    Args:
        path: of the folder or the file, see `sources`.
        name: of the model that made them.
        model: key of the predictions in files of GranD; "": the name.
        images: of COCO results: the file with `images` and `categories`; "": none.
        version: stands for the files in the fingerprint; needed for folders with very many files.

    Attributes:
        name: of the model.
        fingerprint: changes with the files, or with `version`.
        needs_device: False.

    Raises:
        GLaMMError: there is no such file.
    """

    path_arguments = ("path", "images")
    needs_device = False

    def __init__(
        self, path: str, name: str = "", model: str = "", images: str = "", version: str = ""
    ):
        self._path, self._images = Path(path), Path(images) if images else None
        self.name = name or self._path.stem
        self._model = model or self.name
        parts = [fingerprint_of(self._path, version), self._model]
        if self._images is not None:
            parts.append(fingerprint_of(self._images, version))
        self.fingerprint = "-".join([type(self).__name__, *parts])
        self._source: PredictionSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open files, which each worker opens for itself."""
        return self.__dict__ | {"_source": None}

    def setup(self) -> None:
        """Open the files.

        Raises:
            GLaMMError: they cannot be read.
        """
        self._source = open_source(self._path, self._model, self._images)

    def __call__(self, images: Sequence[RoleImage]) -> Results[Any]:
        if self._source is None:
            self.setup()
        results: list[Any] = []
        for image in images:
            try:
                results.append(self.read(image))
            except (GLaMMError, OSError) as error:
                results.append(RoleError("input", one_line(error)))
        return results

    def read(self, image: RoleImage) -> Any:
        """Return the result of the role for an image.

        Raises:
            GLaMMError: there is none, or it cannot be used.
        """
        assert self._source is not None
        return self.convert(self._source.content(image.image_id), image)

    def convert(self, content: Any, image: RoleImage) -> Any:
        """Return the result of the role.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        raise NotImplementedError


class PredictionDetector(PredictionRole):
    """Detections: a list of `bbox` (x0 y0 x1 y1), `score`, `label`, and perhaps `segmentation`.

    In a .jsonl file they are under `detections`. Arguments as of `PredictionRole`.
    """

    field = "label"

    def convert(self, content: Any, image: RoleImage) -> list[Detection]:
        """Return the detections, with boxes and masks within the image.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        if isinstance(content, dict):
            content = JSONObject(content, image.image_id).value("detections")
        return self._checked(_list(content, detection_from_json, image.image_id), image)

    def _checked(self, detections: Sequence[Detection], image: RoleImage) -> list[Detection]:
        checked = []
        for detection in detections:
            if getattr(detection, self.field) is None:
                raise PredictionContentError(f"{image.image_id}: a detection has no {self.field}")
            box = _box_within(detection.box, image)
            if not 0 <= detection.score <= 1:
                raise PredictionContentError(
                    f"{image.image_id}: score {detection.score} is not in [0, 1]"
                )
            if detection.mask is not None:
                rle.check(detection.mask)
                height, width = image.pixels.shape[:2]
                if list(detection.mask["size"]) != [height, width]:
                    raise PredictionContentError(
                        f"{image.image_id}: a mask of {detection.mask['size']}, the image is "
                        f"{[height, width]}"
                    )
            if box[0] < box[2] and box[1] < box[3]:
                checked.append(
                    Detection(
                        box,
                        float(detection.score),
                        detection.label,
                        detection.description,
                        detection.mask,
                    )
                )
        return checked


class PredictionDenseCaptioner(PredictionDetector):
    """Descriptions of regions, as detections with `description`; arguments as above."""

    field = "description"


class PredictionProposer(PredictionDetector):
    """Regions with masks: `annotations` as in SA-1B (boxes x y width height), or `detections`."""

    field = "mask"

    def convert(self, content: Any, image: RoleImage) -> list[Detection]:
        """Return the regions.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        if isinstance(content, dict) and "annotations" in content:
            fields = JSONObject(content, image.image_id)
            return self._checked(proposals_of(fields.array("annotations"), image.image_id), image)
        return super().convert(content, image)


class PredictionTagger(PredictionRole):
    """Tags: {"tags": ["dog", ...], "scores": [0.9, ...]}; arguments as of `PredictionRole`."""

    def convert(self, content: Any, image: RoleImage) -> list[Tag]:
        """Return the tags.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        fields = JSONObject(content, image.image_id)
        texts = fields.array("tags")
        scores = fields.array("scores", [1.0] * len(texts))
        if len(texts) != len(scores):
            raise PredictionContentError(
                f"{image.image_id}: {len(texts)} tags and {len(scores)} scores"
            )
        tags = []
        for text, score in zip(texts, scores, strict=True):
            pair = JSONObject({"tag": text, "score": score}, image.image_id)
            tags.append(Tag(pair.text("tag"), pair.number("score", minimum=0.0, maximum=1.0)))
        return tags


class PredictionCaptioner(PredictionRole):
    """Captions: a text, {"caption": TEXT}, or IMAGE.txt; arguments as of `PredictionRole`."""

    def read(self, image: RoleImage) -> str:
        """Return the caption of an image.

        Raises:
            GLaMMError: there is none.
        """
        if self._path.is_dir():
            path = file_beside(self._path, image.image_id, (".txt", ".json"))
            if path.suffix == ".txt":
                return self.convert(
                    read_regular_file(path, MAX_CAPTION_BYTES).decode("utf-8", "replace"), image
                )
        return super().read(image)

    def convert(self, content: Any, image: RoleImage) -> str:
        """Return the caption.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        if isinstance(content, dict):
            content = JSONObject(content, image.image_id).text("caption")
        if not isinstance(content, str) or not content.strip():
            raise PredictionContentError(f"{image.image_id}: {show(content)} is not a caption")
        return content.strip()


class PredictionLandmarkClassifier(PredictionRole):
    """Kinds of places: {"category": ..., "fine_category": ...}; arguments as above."""

    def convert(self, content: Any, image: RoleImage) -> Landmark:
        """Return the kind of place.

        Args:
            content: of the files about the image.
            image: that it is about.
        """
        fields = JSONObject(content, image.image_id)
        return Landmark(fields.text("category"), fields.text("fine_category"))


class PredictionDepthEstimator(PredictionRole):
    """Depth maps: IMAGE.npy, or IMAGE.png with 8 or 16 bits, of the size of the image.

    Args:
        path: of the folder.
        name: of the model that made them.
        meaning: "inverse": larger is nearer, as the pipeline has it; "distance": larger is farther,
            and 0 is unknown. A distance d becomes 1 / d, an unknown one the farthest.
        version: as of `PredictionRole`.
    """

    path_arguments = ("path",)

    def __init__(self, path: str, name: str = "", meaning: str = "inverse", version: str = ""):
        if meaning not in ("inverse", "distance"):
            raise ConfigError(f"meaning = {meaning!r}: choose from 'inverse', 'distance'")
        if not Path(path).is_dir():
            raise ConfigError(f"{path}: is not a folder")
        super().__init__(path, name, version=version)
        self._meaning = meaning
        self.fingerprint += f"-{meaning}"

    def setup(self) -> None:
        """Do nothing: each file is opened when it is needed."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[Float32[np.ndarray, "h w"]]:
        results: list[Any] = []
        for image in images:
            try:
                results.append(self.read(image))
            except (GLaMMError, OSError, ValueError) as error:
                results.append(RoleError("input", one_line(error)))
        return results

    def read(self, image: RoleImage) -> Float32[np.ndarray, "h w"]:
        """Return the depth map of an image.

        Raises:
            GLaMMError: there is none, or it has another size or values that are no depth.
            ValueError: the file is none of a depth map.
        """
        path = file_beside(self._path, image.image_id, (".npy", ".png"))
        if path.stat().st_size > MAX_DEPTH_BYTES:
            raise PredictionContentError(f"{path}: more than {MAX_DEPTH_BYTES} bytes")
        if path.suffix == ".npy":
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with Image.open(path, formats=["PNG"]) as file:
                if file.mode not in ("L", "I;16", "I"):
                    raise PredictionContentError(
                        f"{path}: has colours ({file.mode}); one channel is due"
                    )
                if file.size != image.pixels.shape[1::-1]:
                    raise PredictionContentError(f"{path}: {file.size}, the image has another size")
                values = np.asarray(file)
        if values.shape != image.pixels.shape[:2] or values.dtype.kind not in "fui":
            raise PredictionContentError(
                f"{path}: {list(values.shape)} of {values.dtype}; numbers of "
                f"{list(image.pixels.shape[:2])} are due"
            )
        depth = np.array(values, np.float32)
        if not depth.size or not np.isfinite(depth).all():
            raise PredictionContentError(f"{path}: has values that are not finite")
        if self._meaning == "distance":
            if depth.min() < 0 or not depth.any():
                raise PredictionContentError(f"{path}: has no distances, or negative ones")
            depth = 1 / np.where(depth > 0, depth, depth.max())
        return depth


def _list(content: Any, convert: Any, where: str) -> list[Any]:
    if not isinstance(content, list):
        raise JSONError(f"{where}: {show(content)} is not a list")
    return [convert(value, f"{where}: [{i}]") for i, value in enumerate(content)]


def _box_within(box: Box, image: RoleImage) -> Box:
    """Return the part of a box in the image.

    Raises:
        PredictionContentError: it is no box, or leaves the image by too much.
    """
    height, width = image.pixels.shape[:2]
    x0, y0, x1, y1 = map(float, box)
    if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x0 <= x1 and y0 <= y1):
        raise PredictionContentError(f"{image.image_id}: {list(box)} is not a box x0 y0 x1 y1")
    outside = max(-x0 / max(width, 1), -y0 / max(height, 1))
    outside = max(outside, x1 / max(width, 1) - 1, y1 / max(height, 1) - 1)
    if outside > MAX_OUTSIDE:
        raise PredictionContentError(
            f"{image.image_id}: box {list(box)} is outside of {width} x {height} pixels; the "
            "predictions may be of another size of the image"
        )
    return (
        min(max(x0, 0.0), width), min(max(y0, 0.0), height),
        min(max(x1, 0.0), width), min(max(y1, 0.0), height),
    )  # fmt: skip

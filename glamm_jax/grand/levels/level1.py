"""Level 1: tags, objects of several detectors, regions, depth, place, and their fusion.

image -> tags/*, detections/*, region_captions/*, proposals, depth, landmark
tags/* -> open_detections/*          proposals -> region_labels/*
all detections, landmark -> fusion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from glamm_jax.grand.fusion import fuse, merge_detections
from glamm_jax.grand.levels.sections import (
    OutputError,
    available,
    checked_list,
    checked_score,
    checked_text,
    depth_section,
    detection_section,
    image_size,
    read_detections,
    record_section,
    to_sections,
)
from glamm_jax.grand.options import FusionOptions, MergeOptions
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import (
    LANDMARKS,
    DenseCaptioner,
    DepthEstimator,
    Detector,
    Landmark,
    LandmarkClassifier,
    OpenDetector,
    RegionClassifier,
    RegionProposer,
    Tag,
    Tagger,
)
from glamm_jax.grand.stages import ParsedSection, Section, Stage, StageError, StageImage

TAGS, DETECTIONS, OPEN_DETECTIONS = "tags/", "detections/", "open_detections/"
REGION_CAPTIONS, REGION_LABELS = "region_captions/", "region_labels/"
VOTING = (DETECTIONS, OPEN_DETECTIONS, REGION_CAPTIONS, REGION_LABELS)


@dataclass(frozen=True)
class TagOptions:
    """The classes that open detectors are asked for: the tags of all taggers.

    Attributes:
        min_score: of a tag.
        extra_classes: asked for in every image. released: "trees".
    """

    min_score: float = 0.0
    extra_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegionOptions:
    """The proposals that a region classifier labels.

    Attributes:
        min_area: smallest share of the image that their box covers.
        min_score: of a label.
    """

    min_area: float = 0.01
    min_score: float = 0.1


@dataclass(frozen=True)
class DepthOptions:
    """How depth maps are stored.

    Attributes:
        levels: steps between the smallest and the largest value. released: 255, as JPEG.
    """

    levels: int = 65535


def tag_stage(name: str, role: Tagger) -> Stage:
    """Return the stage of a tagger."""
    return Stage(
        name=TAGS + name, inputs=("image",), roles=(role,), process=partial(_tag, role=role)
    )


def detection_stage(name: str, role: Detector) -> Stage:
    """Return the stage of a detector with a fixed list of classes."""
    process = partial(_detect, role=role, needs="label")
    return Stage(name=DETECTIONS + name, inputs=("image",), roles=(role,), process=process)


def region_caption_stage(name: str, role: DenseCaptioner) -> Stage:
    """Return the stage of a model that describes regions."""
    process = partial(_detect, role=role, needs="description")
    return Stage(name=REGION_CAPTIONS + name, inputs=("image",), roles=(role,), process=process)


def proposal_stage(role: RegionProposer) -> Stage:
    """Return the stage that finds regions with masks."""
    process = partial(_detect, role=role, needs="mask")
    return Stage(name="proposals", inputs=("image",), roles=(role,), process=process)


def open_detection_stage(
    name: str, role: OpenDetector, taggers: Sequence[str], options: TagOptions
) -> Stage:
    """Return the stage of a detector that is asked for the tags of an image.

    Args:
        name: of the model.
        role: the model.
        taggers: names of all taggers.
        options: which tags.
    """
    inputs = tuple(TAGS + tagger for tagger in taggers)
    return Stage(
        name=OPEN_DETECTIONS + name,
        inputs=("image",),
        optional_inputs=inputs,
        settings=options,
        roles=(role,),
        process=partial(_detect_tags, role=role, tags=inputs, options=options),
    )


def region_label_stage(name: str, role: RegionClassifier, options: RegionOptions) -> Stage:
    """Return the stage that labels the proposals.

    Args:
        name: of the model.
        role: the model.
        options: which proposals and labels.
    """
    return Stage(
        name=REGION_LABELS + name,
        inputs=("image", "proposals"),
        settings=options,
        roles=(role,),
        process=partial(_label_regions, role=role, options=options),
    )


def depth_stage(role: DepthEstimator, options: DepthOptions) -> Stage:
    """Return the stage that estimates depth."""
    return Stage(
        name="depth",
        inputs=("image",),
        settings=options,
        roles=(role,),
        process=partial(_estimate_depth, role=role, options=options),
    )


def landmark_stage(role: LandmarkClassifier) -> Stage:
    """Return the stage that classifies the place."""
    process = partial(_classify_landmark, role=role)
    return Stage(name="landmark", inputs=("image",), roles=(role,), process=process)


def fusion_stage(
    detections: Sequence[str], landmark: bool, merge: MergeOptions, options: FusionOptions
) -> Stage:
    """Return the stage that merges all detections to objects.

    It uses the models that have a result; an image for which fewer than `options.min_sources` have
    one is not annotated further.

    Args:
        detections: names of the stages of all detections, in any order.
        landmark: whether there is a stage that classifies the place.
        merge: selection of the detections of each model.
        options: of the fusion.
    """
    inputs = (*detections, *(("landmark",) if landmark else ()))
    return Stage(
        name="fusion",
        inputs=("image",),
        optional_inputs=inputs,
        settings={"merge": merge, "fusion": options},
        process=partial(_fuse, inputs=tuple(detections), merge=merge, options=options),
    )


# ------------------------------------------------------------------ functions of the stages


def _tag(images: Sequence[StageImage], role: Tagger) -> list[Any]:
    def section(tags: Any, image: StageImage) -> Section:
        pairs = [_tag_pair(tag) for tag in checked_list(tags)]
        return {"tags": [text for text, _ in pairs], "scores": [score for _, score in pairs]}

    return to_sections(role([image.role_image() for image in images]), images, section)


def _tag_pair(tag: Any) -> tuple[str, float]:
    if not isinstance(tag, Tag):
        raise OutputError(f"a tag is due, got {type(tag).__name__}")
    return checked_text(tag.text), checked_score(tag.score)


def _detect(images: Sequence[StageImage], role: Detector, needs: str) -> list[Any]:
    results = role([image.role_image() for image in images])
    return to_sections(
        results, images, lambda detections, image: detection_section(detections, image, needs=needs)
    )


def _detect_tags(
    images: Sequence[StageImage], role: OpenDetector, tags: Sequence[str], options: TagOptions
) -> list[Any]:
    classes = [_classes(image, tags, options) for image in images]
    results = role([image.role_image() for image in images], classes)
    return to_sections(
        results,
        images,
        lambda detections, image: detection_section(detections, image, needs="label"),
    )


def _classes(image: StageImage, tags: Sequence[str], options: TagOptions) -> list[str]:
    names: dict[str, None] = {}
    for _, section in available(tags, image):
        for text, score in zip(section["tags"], section["scores"], strict=True):
            if score >= options.min_score:
                names.setdefault(text)
    return [*names, *(name for name in options.extra_classes if name not in names)]


def _label_regions(
    images: Sequence[StageImage], role: RegionClassifier, options: RegionOptions
) -> list[Any]:
    boxes = []
    for image in images:
        width, height = image_size(image)
        detections = image.parse("proposals", read_detections) or []
        boxes.append([x.box for x in detections if _share(x, width, height) > options.min_area])

    def section(detections: Any, image: StageImage) -> ParsedSection:
        selected = [x for x in checked_list(detections) if not _is_below(x, options.min_score)]
        return detection_section(selected, image, needs="label")

    return to_sections(role([image.role_image() for image in images], boxes), images, section)


def _share(detection: Detection, width: int, height: int) -> float:
    x0, y0, x1, y1 = detection.box
    return (x1 - x0) * (y1 - y0) / (width * height)


def _is_below(detection: Any, score: float) -> bool:
    return isinstance(detection, Detection) and detection.score <= score


def _estimate_depth(
    images: Sequence[StageImage], role: DepthEstimator, options: DepthOptions
) -> list[Any]:
    results = role([image.role_image() for image in images])
    return to_sections(
        results, images, lambda depth, image: depth_section(depth, image, options.levels)
    )


def _classify_landmark(images: Sequence[StageImage], role: LandmarkClassifier) -> list[Any]:
    def section(landmark: Any, image: StageImage) -> Section:
        if not isinstance(landmark, Landmark):
            raise OutputError(f"a landmark is due, got {type(landmark).__name__}")
        if landmark.fine_category not in LANDMARKS.get(landmark.category, ()):
            raise OutputError(f"no landmark {landmark.category!r}, {landmark.fine_category!r}")
        return {"category": landmark.category, "fine_category": landmark.fine_category}

    return to_sections(role([image.role_image() for image in images]), images, section)


def _fuse(
    images: Sequence[StageImage],
    inputs: Sequence[str],
    merge: MergeOptions,
    options: FusionOptions,
) -> list[Any]:
    sections = []
    for image in images:
        detections = {
            name.partition("/")[2]: items
            for name in inputs
            if (items := image.parse(name, read_detections)) is not None
        }
        if len(detections) < options.min_sources:
            text = f"{len(detections)} of {len(inputs)} models have a result"
            text += f", and an object needs {options.min_sources}"
            sections.append(StageError("input", text))
            continue
        landmark = image.sections.get("landmark")
        record = fuse(merge_detections(detections, merge), landmark, options)
        sections.append(record_section(record))
    return sections

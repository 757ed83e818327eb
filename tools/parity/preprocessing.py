"""The part `preprocessing`: pictures for CLIP and SAM, boxes, and run lengths of masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from glamm_jax.config import CLIPConfig, SAMConfig
from glamm_jax.data import boxes as box_module
from glamm_jax.data import preprocess, rle
from glamm_jax.nn.pixel_normalization import normalise
from glamm_jax.testing import golden_weights
from tools.parity.recorded_folder import (
    entry_errors,
    integer_input,
    part_folder,
    report_unknown_files,
)
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

PART = "preprocessing"
BICUBIC = 3
DEFAULT_CLIP_SIZE, DEFAULT_SAM_SIZE = 336, 1024


def check(folder: Path, ledger: ComparisonReport) -> None:
    """Compare everything recorded in `folder/preprocessing`.

    Raises: GoldenError naming what is absent or broken.
    """
    part = part_folder(folder, PART)
    path = part / "info.json"
    with entry_errors(path), RecordedFile.open(ledger, PART, path) as info:
        clip_size = _check_processor(info)
        files, sam_sizes = [], []
        for prefix in _images(info):
            name = str(info.input(f"{prefix}.file", "name of the file"))
            files.append(name)
            with entry_errors(part / name), RecordedFile.open(ledger, PART, part / name) as arrays:
                sam_sizes.append(_check_arrays(arrays))
                _check_image_info(info, prefix, arrays, clip_size, sam_sizes[-1])
        _check_shapes(info, clip_size, sam_sizes[0] if sam_sizes else DEFAULT_SAM_SIZE)
        _check_boxes(info, sam_sizes[0] if sam_sizes else DEFAULT_SAM_SIZE)
        _check_counts(info)
        _check_run_lengths(info)
    report_unknown_files(ledger, PART, part, {"info.json", *files})


def _images(info: RecordedFile) -> list[str]:
    found = (re.match(r"images\[\d+\]", name) for name in info.names)
    return list(dict.fromkeys(match.group() for match in found if match))


def _check_processor(info: RecordedFile) -> int:
    """The processor's own settings against our constants; returns the size it cuts to."""
    expected = {
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "image_mean": np.array(CLIPConfig().pixel_mean) / 255,
        "image_std": np.array(CLIPConfig().pixel_std) / 255,
    }
    for name, value in expected.items():
        key = f"clip_processor.{name}"
        if key in info:
            info.compare(key, value, "box" if name.startswith(("image", "rescale")) else "exact")
    size = DEFAULT_CLIP_SIZE
    if "clip_processor.size.shortest_edge" in info:
        size = int(integer_input(info, "clip_processor.size.shortest_edge"))
    # Both edges of the crop are the resized edge: there is one size.
    for edge in ("height", "width"):
        if f"clip_processor.crop_size.{edge}" in info:
            info.compare(f"clip_processor.crop_size.{edge}", size, "exact")
    info.exclude("clip_processor._processor_class", "name of a class of transformers")
    info.exclude("clip_processor.feature_extractor_type", "name of a class of transformers")
    return size


def _check_arrays(arrays: RecordedFile) -> int:
    """Every array of one picture's file; sizes are those of the arrays. Returns SAM's full size."""
    image = _checked_image(arrays)
    sizes: dict[str, int] = {}
    for name in arrays.names:
        shape = arrays.shape(name)
        group, _, leaf = name.partition("/")
        if group.startswith("clip") and leaf == "pixel_values":
            pixels = clip_pixels(image, shape[-1])
            _compare_pixels(arrays, name, pixels.transpose(2, 0, 1), "clip_pixels")
        elif group.startswith("sam") and leaf == "resized_u8":
            sizes[group] = max(shape[:2])
            resized = preprocess.resize_longest(image, max(shape[:2]))
            _compare_pixels(arrays, name, resized, "resized_uint8")
        elif group.startswith("sam") and leaf == "pixels":
            pixels = grounding_pixels(image, shape[-1])
            _compare_pixels(arrays, name, pixels.transpose(2, 0, 1), "clip_pixels")
    return sizes.get("sam", DEFAULT_SAM_SIZE)


def _checked_image(arrays: RecordedFile) -> np.ndarray:
    """The picture; compared with the golden rule's draw where that explains nearly all of it."""
    name = "in/image_u8"
    image = arrays.get(name)
    for number in re.findall(r"\d+", arrays.file.split("/")[-1]):
        drawn = golden_weights.image_u8(f"pre{number}", *image.shape[:2])
        if drawn.shape == image.shape and np.mean(drawn == image) > 0.9:
            arrays.compare(name, drawn, "exact")
            return image
    return arrays.input(name)


def clip_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """What CLIP sees: the host's part, then the device's."""
    config = CLIPConfig()
    pixels = jnp.asarray(preprocess.clip_image(image, size))[None]
    return np.asarray(normalise(pixels, config.pixel_mean, config.pixel_std))[0]


def grounding_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """What SAM sees: the host's part, then the device's."""
    config = SAMConfig()
    padded = preprocess.grounding_image(image, size)
    pixels, sizes = jnp.asarray(padded.pixels)[None], jnp.asarray([padded.resized_size])
    return np.asarray(normalise(pixels, config.pixel_mean, config.pixel_std, sizes))[0]


def _compare_pixels(arrays: RecordedFile, name: str, ours: np.ndarray, kind: str) -> None:
    """One grey level is forgiven to another resizer, which differs here and there all over.

    Where every value but one is the same, the resizer is the same one, and the whole record,
    statistics included, has to agree: levels bit for bit, normalised pixels to float32's rounding,
    for XLA multiplies by the reciprocal where the original divides.
    """
    if f"{name}__val" in arrays.values:
        index = arrays.get(f"{name}__idx")
        inside = index.size == 0 or (index.min() >= 0 and index.max() < ours.size)
        recorded, values = arrays.get(f"{name}__val"), ours.reshape(-1)[index] if inside else ours
    else:
        recorded, values = arrays.get(name), ours
    same = recorded.shape == values.shape
    apart = np.abs(recorded.astype(np.float64) - values) > 1e-6 if same else np.ones(2)
    # A picture of one colour has no deviation to measure by.
    if apart.sum() <= 1 and values.std() > 1e-2:
        kind = "input" if kind == "resized_uint8" else "module"
    arrays.compare(name, ours, kind)


def _check_image_info(
    info: RecordedFile, prefix: str, arrays: RecordedFile, clip_size: int, sam_size: int
) -> None:
    image = arrays.get("in/image_u8")
    height, width = image.shape[:2]
    known: dict[str, Callable[[], Any]] = {
        "h": lambda: height,
        "w": lambda: width,
        "clip_shape": lambda: preprocess.clip_image(image, clip_size).transpose(2, 0, 1).shape,
        "sam_resize": lambda: preprocess.grounding_size(height, width, sam_size),
    }
    for name, ours in known.items():
        if f"{prefix}.{name}" in info:
            info.compare(f"{prefix}.{name}", ours(), "exact")
    if f"{prefix}.boxes_px" not in info:
        return
    boxes = np.asarray(info.input(f"{prefix}.boxes_px"), np.float32)
    order = np.atleast_1d(integer_input(info, f"{prefix}.shuffle"))
    if not set(order.tolist()) <= set(range(len(boxes))):
        raise GoldenError(f"{info.file}: {prefix}.shuffle does not number {len(boxes)} boxes")
    # Before the shuffle the labels are a, b, c in the order of the boxes.
    labels = [chr(ord("a") + i) for i in range(len(boxes))]
    chosen, chosen_labels = box_module.select_regions(boxes, labels, order)
    info.compare(f"{prefix}.region_boxes", box_module.to_unit(chosen, height, width), "box")
    info.compare(f"{prefix}.region_labels", chosen_labels, "exact")
    if f"{prefix}.single_box" in info:
        info.compare(f"{prefix}.single_box", box_module.to_unit(boxes[:1], height, width), "box")


def _check_shapes(info: RecordedFile, clip_size: int, sam_size: int) -> None:
    """Rows of height, width and both after resizing: the first two are fed, all four compared."""
    for name, resized, size in (
        ("clip_resize_shapes", preprocess.clip_size, clip_size),
        ("sam_resize_shapes", preprocess.grounding_size, sam_size),
    ):
        if name in info:
            sizes = [(int(row[0]), int(row[1])) for row in info.get(name)]
            info.compare(name, [[*pair, *resized(*pair, size)] for pair in sizes], "exact")


def _check_boxes(info: RecordedFile, sam_size: int) -> None:
    if "apply_boxes.out" not in info:
        return
    height, width = integer_input(info, "apply_boxes.orig")
    boxes = np.asarray(info.input("apply_boxes.boxes"), np.float64)
    out = box_module.to_grounding_frame(boxes, int(height), int(width), sam_size)
    info.compare("apply_boxes.out", out, "box")


def _check_counts(info: RecordedFile) -> None:
    """How many boxes and labels are left of many: the Flickr class keeps all boxes (trap 42)."""
    if "more_than_10_boxes.flickr.n_boxes" not in info:
        return
    given = int(info.get("more_than_10_boxes.flickr.n_boxes"))
    order = np.arange(given)
    for name, limit_boxes in (("region_base", True), ("flickr", False)):
        boxes, labels = box_module.select_regions(
            np.zeros((given, 4), np.float32), [""] * given, order, limit_boxes=limit_boxes
        )
        info.compare(f"more_than_10_boxes.{name}.n_boxes", len(boxes), "exact")
        info.compare(f"more_than_10_boxes.{name}.n_labels", len(labels), "exact")


def _check_run_lengths(info: RecordedFile) -> None:
    if "rle.masks" not in info:
        return
    recorded = [np.asarray(mask) for mask in info.get("rle.masks")]
    decoded = []
    for i, mask in enumerate(recorded):
        ours = {
            "uncompressed": rle.encode_counts(mask != 0),
            "compressed": rle.encode(mask != 0),
        }
        for kind, runs in ours.items():
            for field, value in runs.items():
                info.compare(f"rle.{kind}[{i}].{field}", value, "exact")
        decoded.append(_decoded(info, i))
    info.compare("rle.masks", decoded, "exact")


def _decoded(info: RecordedFile, i: int) -> list[list[int]]:
    """The recorded runs of mask i as a mask; its plain counts must give the same one."""
    both = []
    for kind in ("uncompressed", "compressed"):
        runs = {field: info.get(f"rle.{kind}[{i}].{field}") for field in ("size", "counts")}
        try:
            both.append(rle.decode(runs).astype(int).tolist())
        except rle.MaskError:
            both.append([])  # the rows of size and counts say what is wrong
    return both[0] if both[0] == both[1] else []

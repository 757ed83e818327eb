"""The part `preprocessing`: images for CLIP and SAM, boxes, and run lengths of masks."""

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
from glamm_jax.nn.pixel_normalization import normalize_pixels
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

    Raises:
        GoldenError: something is missing or broken; names it.
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
    matches = (re.match(r"images\[\d+\]", name) for name in info.names)
    return list(dict.fromkeys(match.group() for match in matches if match))


def _check_processor(info: RecordedFile) -> int:
    """Compare the settings of the processor with our constants; returns the size of its crop."""
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
    # Both sides of the crop are the resized side: there is one size.
    for edge in ("height", "width"):
        if f"clip_processor.crop_size.{edge}" in info:
            info.compare(f"clip_processor.crop_size.{edge}", size, "exact")
    info.exclude("clip_processor._processor_class", "name of a class in transformers")
    info.exclude("clip_processor.feature_extractor_type", "name of a class in transformers")
    return size


def _check_arrays(arrays: RecordedFile) -> int:
    """Compare every array of the file of an image; returns the size of the image for SAM."""
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
    """The image; compared with the golden rule's image if nearly all pixels are equal."""
    name = "in/image_u8"
    image = arrays.get(name)
    for number in re.findall(r"\d+", arrays.file.split("/")[-1]):
        expected = golden_weights.image_u8(f"pre{number}", *image.shape[:2])
        if expected.shape == image.shape and np.mean(expected == image) > 0.9:
            arrays.compare(name, expected, "exact")
            return image
    return arrays.input(name)


def clip_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Return the input of CLIP: preprocessed on the host, normalised on the device."""
    config = CLIPConfig()
    pixels = jnp.asarray(preprocess.clip_image(image, size))[None]
    return np.asarray(normalize_pixels(pixels, config.pixel_mean, config.pixel_std))[0]


def grounding_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Return the input of SAM: preprocessed on the host, normalised on the device."""
    config = SAMConfig()
    padded = preprocess.grounding_image(image, size)
    pixels, sizes = jnp.asarray(padded.pixels)[None], jnp.asarray([padded.resized_size])
    return np.asarray(normalize_pixels(pixels, config.pixel_mean, config.pixel_std, sizes))[0]


def _compare_pixels(arrays: RecordedFile, name: str, pixels: np.ndarray, kind: str) -> None:
    """Compare pixels, with a stricter tolerance if nearly all of them are equal.

    `kind` allows for another resizer, which differs by one level in many places. If all values but
    one are equal, the resizer is the same, so the complete recording, with its statistics, must be
    equal: levels bit for bit, normalised pixels up to float32 rounding, as XLA multiplies by the
    reciprocal where the original divides.
    """
    if f"{name}__val" in arrays.values:
        index = arrays.get(f"{name}__idx")
        in_range = index.size == 0 or (index.min() >= 0 and index.max() < pixels.size)
        recorded = arrays.get(f"{name}__val")
        values = pixels.reshape(-1)[index] if in_range else pixels
    else:
        recorded, values = arrays.get(name), pixels
    same_shape = recorded.shape == values.shape
    differs = np.abs(recorded.astype(np.float64) - values) > 1e-6 if same_shape else np.ones(2)
    # Errors are relative to the standard deviation, which an image of one colour does not have.
    if differs.sum() <= 1 and values.std() > 1e-2:
        kind = "input" if kind == "resized_uint8" else "module"
    arrays.compare(name, pixels, kind)


def _check_image_info(
    info: RecordedFile, prefix: str, arrays: RecordedFile, clip_size: int, sam_size: int
) -> None:
    image = arrays.get("in/image_u8")
    height, width = image.shape[:2]
    expected: dict[str, Callable[[], Any]] = {
        "h": lambda: height,
        "w": lambda: width,
        "clip_shape": lambda: preprocess.clip_image(image, clip_size).transpose(2, 0, 1).shape,
        "sam_resize": lambda: preprocess.grounding_size(height, width, sam_size),
    }
    for name, compute in expected.items():
        if f"{prefix}.{name}" in info:
            info.compare(f"{prefix}.{name}", compute(), "exact")
    if f"{prefix}.boxes_px" not in info:
        return
    boxes = np.asarray(info.input(f"{prefix}.boxes_px"), np.float32)
    order = np.atleast_1d(integer_input(info, f"{prefix}.shuffle"))
    if not set(order.tolist()) <= set(range(len(boxes))):
        raise GoldenError(f"{info.file}: {prefix}.shuffle is not an order of {len(boxes)} boxes")
    # Before the shuffle the labels are a, b, c in the order of the boxes.
    labels = [chr(ord("a") + i) for i in range(len(boxes))]
    selected, selected_labels = box_module.select_regions(boxes, labels, order)
    info.compare(f"{prefix}.region_boxes", box_module.to_unit(selected, height, width), "box")
    info.compare(f"{prefix}.region_labels", selected_labels, "exact")
    if f"{prefix}.single_box" in info:
        info.compare(f"{prefix}.single_box", box_module.to_unit(boxes[:1], height, width), "box")


def _check_shapes(info: RecordedFile, clip_size: int, sam_size: int) -> None:
    """Compare sizes after resizing; a row is height, width, resized height, resized width."""
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
    """Compare the numbers of boxes and labels that are kept of many.

    quirk 42: the Flickr class keeps all boxes, and limits only the labels.
    """
    if "more_than_10_boxes.flickr.n_boxes" not in info:
        return
    num_boxes = int(info.get("more_than_10_boxes.flickr.n_boxes"))
    order = np.arange(num_boxes)
    for name, limit_boxes in (("region_base", True), ("flickr", False)):
        boxes, labels = box_module.select_regions(
            np.zeros((num_boxes, 4), np.float32), [""] * num_boxes, order, limit_boxes=limit_boxes
        )
        info.compare(f"more_than_10_boxes.{name}.n_boxes", len(boxes), "exact")
        info.compare(f"more_than_10_boxes.{name}.n_labels", len(labels), "exact")


def _check_run_lengths(info: RecordedFile) -> None:
    if "rle.masks" not in info:
        return
    recorded = [np.asarray(mask) for mask in info.get("rle.masks")]
    decoded = []
    for i, mask in enumerate(recorded):
        encoded = {
            "uncompressed": rle.encode_counts(mask != 0),
            "compressed": rle.encode(mask != 0),
        }
        for kind, runs in encoded.items():
            for field, value in runs.items():
                info.compare(f"rle.{kind}[{i}].{field}", value, "exact")
        decoded.append(_decoded(info, i))
    info.compare("rle.masks", decoded, "exact")


def _decoded(info: RecordedFile, i: int) -> list[list[int]]:
    """The mask of the recorded runs i; [] if compressed and plain counts differ or are broken."""
    both = []
    for kind in ("uncompressed", "compressed"):
        runs = {field: info.get(f"rle.{kind}[{i}].{field}") for field in ("size", "counts")}
        try:
            both.append(rle.decode(runs).astype(int).tolist())
        except rle.MaskError:
            both.append([])  # the comparisons of size and counts report it
    return both[0] if both[0] == both[1] else []

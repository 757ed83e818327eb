"""The label of each object, chosen from its candidates, and its depth.

    questions = label_questions(record, (640, 480), LabelOptions())
    record = choose_labels(record, {0: "cup"}, depth, LabelOptions())

Source: GranD/level_2_inference/5_label_assignment/infer.py, utils/merge_eva_labels.py,
utils/util.py, utils/group_objects_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from glamm_jax.grand.options import LabelOptions
from glamm_jax.grand.record import NAN, Box, GrandObject, GrandRecord, changed
from glamm_jax.grand.roles import LabelQuestion

# Words for people that become `person`, and their plurals. The recordings show some of them; the
# others are ours.
_PERSON = (
    "man", "woman", "boy", "girl", "kid", "child", "baby", "male", "elderly", "teenager", "adult",
    "toddler", "infant", "lady", "guy", "gentleman", "human", "pedestrian",
)  # fmt: skip
_PERSONS = (
    "men", "women", "boys", "girls", "kids", "children", "babies", "females", "elders", "teenagers",
    "adults", "toddlers", "infants", "ladies", "guys", "gentlemen", "humans", "pedestrians",
)  # fmt: skip
PERSON_WORDS: dict[str, str] = {
    **dict.fromkeys(_PERSON, "person"),
    **dict.fromkeys(_PERSONS, "persons"),
}


def canonical_label(label: str) -> str:
    """Return `person` or `persons` for a word for people, and any other label as it is."""
    return PERSON_WORDS.get(label.lower(), label)


def label_questions(
    record: GrandRecord, size: tuple[int, int], options: LabelOptions
) -> dict[int, LabelQuestion]:
    """Return what a label chooser decides: a box in whole pixels and labels, for each id.

    Args:
        record: after the descriptions.
        size: width and height of the image.
        options: which objects.
    """
    width, height = size
    questions: dict[int, LabelQuestion] = {}
    for item in (*record.objects, *record.floating_objects):
        labels = tuple(dict.fromkeys(item.labels)) if options.distinct else item.labels
        if len(labels) == 1 or (options.distinct and not labels):
            continue
        x0, y0, x1, y1 = item.box
        # Half to even, as Python and the original round.
        left, right = round(min(max(x0, 0), width)), round(min(max(x1, 0), width))
        top, bottom = round(min(max(y0, 0), height)), round(min(max(y1, 0), height))
        if right > left and bottom > top:
            questions[item.id] = LabelQuestion((left, top, right, bottom), labels)
    return questions


def choose_labels(
    record: GrandRecord,
    choices: Mapping[int, str],
    depth: Float32[np.ndarray, "h w"] | None,
    options: LabelOptions,
) -> GrandRecord:
    """Write the label and the depth of each object.

    Args:
        record: after the descriptions.
        choices: the chosen label for ids of `label_questions`; others have their first label.
        depth: inverse depth of each pixel; None: depth is not written.
        options: of which objects, and how depth is measured.
    """
    objects, floats = record.objects, record.floating_objects
    # Floating objects have a depth only if they stand for the missing objects.
    float_depth = None if objects else depth
    float_choices = choices if options.float_labels else None
    return changed(
        record,
        objects=tuple([_complete(x, choices, depth, options) for x in objects]),
        floating_objects=tuple([_complete(x, float_choices, float_depth, options) for x in floats]),
    )


def _complete(
    item: GrandObject,
    choices: Mapping[int, str] | None,
    depth: Float32[np.ndarray, "h w"] | None,
    options: LabelOptions,
) -> GrandObject:
    """Return an object with its label, if there are choices, and its depth, if there is a map."""
    fields: dict[str, Any] = {}
    if depth is not None:
        value = median_depth(item.box, depth, options)
        if not math.isnan(value) or options.missing_depth != "none":
            fields["depth"] = value
    if choices is not None and (item.id in choices or item.labels):
        label = choices[item.id] if item.id in choices else item.labels[0]
        fields["label"] = canonical_label(label)
    return changed(item, **fields) if fields else item


def median_depth(box: Box, depth: Float32[np.ndarray, "h w"], options: LabelOptions) -> float:
    """Return the median of a depth map inside a box, with two decimals; NaN if there is no pixel.

    Args:
        box: in pixels; what is outside the map does not count.
        depth: of each pixel.
        options: which pixels count.
    """
    height, width = depth.shape
    x0, y0, x1, y1 = box
    if options.cover:
        x0, y0, x1, y1 = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    left, right = max(int(x0), 0), min(int(x1), width)
    top, bottom = max(int(y0), 0), min(int(y1), height)
    if right <= left or bottom <= top:
        return NAN
    values = depth[top:bottom, left:right].flatten()  # a copy, which is sorted below
    valid = np.isfinite(values) if options.median_of == "all" else values != 0
    if not valid.all():
        values = values[valid]
    count = values.size
    if not count:
        return NAN
    # The same as `numpy.median`, without its cost for small arrays.
    middle = count // 2
    values.partition(middle)
    median = values[middle]
    if count % 2 == 0:
        median = (values[:middle].max() + median) / 2
    return round(float(median), 2)

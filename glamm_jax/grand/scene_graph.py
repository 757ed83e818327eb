"""The scene graph of an image: objects in layers of depth and groups, and the texts that show it.

    graph = build_scene_graph(record, (640, 480), SceneGraphOptions())
    graph.text                  # for the dense caption: layers, captions, relationships, landmark
    context_text(record, SceneGraphOptions())       # for the additional context

Source: GranD/level_3_dense_caption/prompt_template.py, level_4_extra_context/prompt_template.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glamm_jax.grand.attributes import remove_prefix
from glamm_jax.grand.options import LAYER_LIMITS, SceneGraphOptions
from glamm_jax.grand.record import GrandObject, GrandRecord, changed

LAYERS = ("Immediate Foreground", "Foreground", "Midground", "Background")


@dataclass(frozen=True)
class GraphLayer:
    """Objects of similar depth.

    Attributes:
        name: one of `LAYERS`.
        groups: number of each group and its objects.
    """

    name: str
    groups: tuple[tuple[int, tuple[GrandObject, ...]], ...]


@dataclass(frozen=True)
class SceneGraph:
    """What a language model is shown of an image.

    Attributes:
        layers: those that have objects, the nearest first.
        group_ids: number of the group of each object, by id, in the order of the record.
        text: all of it.
    """

    layers: tuple[GraphLayer, ...]
    group_ids: tuple[tuple[int, int], ...]
    text: str


def build_scene_graph(
    record: GrandRecord, size: tuple[int, int] | None, options: SceneGraphOptions
) -> SceneGraph | None:
    """Sort the objects of a record into layers and groups; None if none has a depth.

    The released code raises for such an image, and for one without landmark, and skips it; with
    `optional_landmark` off the latter is None here too.

    Args:
        record: after labels and depth.
        size: width and height of the image; None is enough if `options.radius` is None.
        options: limits of layers, groups and numbers.

    Raises:
        ValueError: the size is needed.
    """
    if record.landmark is None and not options.optional_landmark:
        return None
    objects = _graph_objects(record, options)
    if not objects:
        return None
    radius = options.radius_pixels
    if options.radius is not None:
        if size is None:
            raise ValueError("a radius relative to the image needs its size")
        radius = options.radius * math.hypot(*size)
    layers: list[GraphLayer] = []
    numbers: dict[int, int] = {}  # position in `objects` -> group
    layer_of = depth_layers([item.depth or 0.0 for item in objects], options.layers)
    count = 0
    for layer, name in enumerate(LAYERS):
        members = [i for i, index in enumerate(layer_of) if index == layer]
        groups: list[tuple[int, tuple[GrandObject, ...]]] = []
        for group in _groups([objects[i] for i in members], radius):
            numbers |= {members[i]: count for i in group}
            groups.append((count, tuple(objects[members[i]] for i in group)))
            count += 1
        if groups:
            layers.append(GraphLayer(name, tuple(groups)))
    # In the order of the record, which a cap may have changed.
    group_of = {id(item): numbers[i] for i, item in enumerate(objects)}
    group_ids = tuple(
        (item.id, group_of[id(item)])
        for item in (record.objects or record.floating_objects)
        if id(item) in group_of
    )
    return SceneGraph(
        tuple(layers), group_ids, _graph_text(record, layers, dict(group_ids), options)
    )  # fmt: skip


def _graph_objects(record: GrandRecord, options: SceneGraphOptions) -> list[GrandObject]:
    """Return the objects of the graph: those with a depth, and no more than the cap."""
    objects = list(record.objects or record.floating_objects)
    capped = bool(record.objects) or options.cap_floats
    if not options.strict_caps and capped:
        objects = _capped(objects, options.max_objects, options)
    objects = [item for item in objects if item.depth is not None]
    if options.skip_nan:
        objects = [item for item in objects if item.depth == item.depth]
    if options.strict_caps and capped:
        objects = _capped(objects, options.max_objects, options)
    return objects


def _capped(
    objects: list[GrandObject], limit: int, options: SceneGraphOptions
) -> list[GrandObject]:
    if len(objects) <= limit:
        return objects
    if options.strict_caps:
        order = sorted(
            range(len(objects)),
            key=lambda i: (not objects[i].attributes, -(objects[i].score or 0.0), i),
        )
        return [objects[i] for i in sorted(order[:limit])]
    described = [item for item in objects if item.attributes is not None]
    others = [item for item in objects if item.attributes is None]
    return described + others[: limit - len(described)]


def depth_layers(depths: Sequence[float], limits: Sequence[float] = LAYER_LIMITS) -> list[int]:
    """Return the index of the layer of each depth, 0 for the nearest.

    Args:
        depths: inverse depths; larger is nearer.
        limits: upper limits of the layers but the last, as shares of the range of depth.
    """
    if not depths:
        return []
    # A first value that is no number makes both limits no number, as in the released code.
    low, high = min(depths), max(depths)
    layers: list[int] = []
    for depth in depths:
        value = 0.5 if low == high else 1 - (depth - low) / (high - low)
        layers.append(next((i for i, end in enumerate(limits) if value < end), len(limits)))
    return layers


def _groups(objects: Sequence[GrandObject], radius: float) -> list[list[int]]:
    """Return groups of indices: the first object that is left, and those near to it."""
    centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (x.box for x in objects)]
    left = list(range(len(objects)))
    groups: list[list[int]] = []
    while left:
        x, y = centres[left[0]]
        group = [
            i
            for i in left
            if i == left[0]
            or math.sqrt((centres[i][0] - x) ** 2 + (centres[i][1] - y) ** 2) < radius
        ]
        groups.append(group)
        members = set(group)
        left = [i for i in left if i not in members]
    return groups


def _graph_text(
    record: GrandRecord,
    layers: Sequence[GraphLayer],
    group_of: Mapping[int, int],
    options: SceneGraphOptions,
) -> str:
    lines: list[str] = []
    for layer in layers:
        lines.append(f"{layer.name}:")
        lines += [f"Group {number}: {_names(items, options)}" for number, items in layer.groups]
    captions = record.captions or tuple(c.caption for c in record.short_captions or ())
    lines += ["", "Short Captions:", *captions, "", "Relationships:"]
    for link in record.links:
        groups = [str(group_of[number]) for number in link.object_ids if number in group_of]
        if groups if options.linked_only else link.object_ids:
            lines.append(f"{link.phrase}, Group Ids: ({', '.join(groups)})")
    lines += _landmark_lines(record)
    return "\n".join(lines).replace("_", " ") + "\n"


def _landmark_lines(record: GrandRecord) -> list[str]:
    if record.landmark is None:
        return []
    main, fine = record.landmark.get("category", ""), record.landmark.get("fine_category", "")
    return ["", "Landmarks:", f"{main}, {fine}"]


def _names(objects: Sequence[GrandObject], options: SceneGraphOptions) -> str:
    text = ""
    for item in objects:
        label, attribute = _label(item), _attribute(item, options)
        if label:
            text += f", {label}" if text else label
        elif attribute and options.unlabeled:
            text += f", {attribute}" if text else attribute
            continue
        if attribute:
            text += f"/{attribute}"
    return text


def _label(item: GrandObject) -> str:
    return item.label or (item.labels[0] if item.labels else "")


def _attribute(item: GrandObject, options: SceneGraphOptions) -> str:
    if not item.attributes:
        return ""
    text = item.attributes[0]
    return remove_prefix(text) if options.prefix_only else after_colon(text)


def after_colon(text: str) -> str:
    """Return what follows the first colon, further colons as blanks; all if there is none."""
    pieces = text.split(":")
    return " ".join(pieces[1:]).strip() if len(pieces) > 1 else text


def context_text(record: GrandRecord, options: SceneGraphOptions) -> str | None:
    """Return the text for the additional context: objects and landmark.

    Args:
        record: after labels and depth.
        options: number of objects, and what is shown of them.

    Returns:
        The text; None without landmark if `options.optional_landmark` is off.
    """
    if record.landmark is None and not options.optional_landmark:
        return None
    objects = list(record.objects or record.floating_objects)
    lines = ["Objects:"]
    for item in _capped(objects, options.max_context_objects, options):
        label, attribute = _label(item), _attribute(item, options)
        if label:
            lines.append(f"{label}/{attribute}" if attribute else label)
        elif attribute and options.unlabeled:
            lines.append(attribute)
    return "\n".join(lines + _landmark_lines(record)).replace("_", " ") + "\n"


def add_context(record: GrandRecord, context: str) -> GrandRecord:
    """Return the record with its additional context, without blanks around it."""
    return changed(record, additional_context=context.strip())

"""Rendered scenes as a folder of images, with everything that is true about them beside it.

    write_scenes("scenes", FULL, seed=0, count=100, size=192)
    folder = open_truth("scenes")
    truth = folder["scene_000000"]      # or "scene_000000.png"
    truth.objects[0].shape              # "star"
    truth.depth_map()                   # float32 inverse depth, larger is nearer

    scenes/images/scene_000000.png
    scenes/truth.jsonl                  one scene a line
    scenes/scenes.json                  options, and image id -> place in truth.jsonl

A scene is read when it is asked for; the last ones are kept.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.json_files import parse_json, read_object
from glamm_jax.miniworld.annotations import entity_mask, mask_box, scene_entities, text_rng
from glamm_jax.miniworld.captions import place_description
from glamm_jax.miniworld.expressions import RELATIONS, is_related
from glamm_jax.miniworld.mentions import POSITIONS, Appearance
from glamm_jax.miniworld.scene import Scene, render_scene
from glamm_jax.miniworld.world import FULL, HANGING, PLACES, World

IMAGES, TRUTH, INDEX = "images", "truth.jsonl", "scenes.json"
CACHED_SCENES = 256  # of one folder in one process
FIRST_LABEL = 65  # character of label 0 in "runs"
# Inverse depths: of sky and walls, of the farthest object, and the range of objects and ground.
BACKDROP, FAR, NEAR_RANGE = 0.5, 1.0, 254.0
GROUND_FAR, GROUND_NEAR = 0.2, 0.8  # depth of a ground at the upper edge, and what it gains below

Box = tuple[float, float, float, float]
Phrase = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ObjectTruth(Appearance):
    """What is true about an object.

    Attributes:
        box: of its visible pixels, x0 y0 x1 y1.
        depth: inverse depth of its pixels.
        box_depth: median of the depths in its box, with two decimals.
        counts: run lengths of its visible pixels, compressed.
    """

    box: Box
    depth: float
    box_depth: float
    counts: str


class RegionTruth(NamedTuple):
    """Stuff, or the part of an object: its name, box and run lengths."""

    name: str
    box: Box
    counts: str


class CaptionTruth(NamedTuple):
    """A caption; `phrases` have start, end, and the objects that they name: one each."""

    text: str
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True, slots=True)
class SceneTruth:
    """What is true about a scene.

    Attributes:
        image_id: name of its image without extension.
        size: width and height in pixels.
        place: key of PLACES.
        place_text: place and time of day, such as "a meadow at night".
        objects: in the order of their depth, farthest first.
        stuff: from top to bottom.
        parts: of objects.
        captions: of the largest object, and of all.
        relations: (a, name, b): object a is possibly related to object b.
        runs: the label map down the columns: one character for the label of each run (stuff, then
            objects), and the lengths, compressed.
    """

    image_id: str
    size: int
    place: str
    place_text: str
    objects: tuple[ObjectTruth, ...]
    stuff: tuple[RegionTruth, ...]
    parts: tuple[RegionTruth, ...]
    captions: tuple[CaptionTruth, ...]
    relations: frozenset[tuple[int, str, int]]
    runs: tuple[str, str]

    @property
    def landmark(self) -> tuple[str, str]:
        """Category and fine category of the place."""
        return PLACES[self.place].landmark

    def run_lengths(self, counts: str) -> dict[str, Any]:
        """Return COCO run lengths of the size of the image."""
        return {"size": [self.size, self.size], "counts": counts}

    def depth_map(self, offsets: tuple[float, ...] = ()) -> Float32[np.ndarray, "s s"]:
        """Return the inverse depth of every pixel; larger is nearer.

        Args:
            offsets: added to the depths of the objects, if there are any.
        """
        offsets = offsets or (0.0,) * len(self.objects)
        grounds = [stuff.name not in HANGING for stuff in self.stuff]
        far = FAR + NEAR_RANGE * GROUND_FAR
        constants = [far if ground else BACKDROP for ground in grounds]
        constants += [
            item.depth + offset for item, offset in zip(self.objects, offsets, strict=True)
        ]
        slopes = [NEAR_RANGE * GROUND_NEAR * ground for ground in grounds]
        slopes += [0.0] * len(self.objects)
        labels = np.frombuffer(self.runs[0].encode("ascii"), np.uint8) - FIRST_LABEL
        _, ends = rle.run_ends(self.run_lengths(self.runs[1]))
        lengths = np.diff(ends, prepend=0)
        size = self.size
        depth = np.repeat(np.array(constants, np.float32)[labels], lengths).reshape(size, size)
        slope = np.repeat(np.array(slopes, np.float32)[labels], lengths).reshape(size, size)
        rows = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        slope *= rows
        depth += slope
        return depth.T


class TruthFolder:
    """The truth about the scenes of a folder, by image id.

    Args:
        folder: written by `write_scenes`.

    Attributes:
        description: what the scenes were rendered from.

    Raises:
        FolderError: it is not such a folder.
    """

    def __init__(self, folder: Path | str):
        self._path = Path(folder) / TRUTH
        index = read_object(Path(folder) / INDEX)
        self.description: dict[str, Any] = dict(index.object("description").fields)
        self._places: dict[str, list[int]] = dict(index.object("scenes").fields)
        self._cache: OrderedDict[str, SceneTruth] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def image_ids(self) -> list[str]:
        """The ids of all images, in their order."""
        return list(self._places)

    def find(self, image_id: str) -> SceneTruth | None:
        """Return the truth about an image, or None if it is none of the scenes.

        Args:
            image_id: name of the image, with or without folders and extension.

        Raises:
            FolderError: the folder is damaged.
        """
        truth = self._cache.get(image_id)
        if truth is None:
            name = image_id if image_id in self._places else PurePosixPath(image_id).stem
            place = self._places.get(name)
            if place is None:
                return None
            truth = self._read(name, place)
            if len(self._cache) >= CACHED_SCENES:
                self._cache.popitem(last=False)
            self._cache[image_id] = truth
        return truth

    def __getitem__(self, image_id: str) -> SceneTruth:
        """Return the truth about an image.

        Raises:
            FolderError: it is none of the scenes, or the folder is damaged.
        """
        truth = self.find(image_id)
        if truth is None:
            raise FolderError(f"{self._path}: no scene {image_id!r}")
        return truth

    def _read(self, name: str, place: list[int]) -> SceneTruth:
        where = f"{self._path}: scene {name!r}"
        try:
            start, length = place
            with self._path.open("rb") as file:
                file.seek(start)
                line = file.read(length)
            return _decode(name, parse_json(line, where))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise FolderError(f"{where}: damaged; write the scenes again ({error})") from error


@lru_cache(maxsize=8)
def open_truth(folder: Path | str) -> TruthFolder:
    """Return the truth of a folder; the same object for all callers of a process.

    Raises:
        FolderError: it is not a folder of `write_scenes`.
    """
    return TruthFolder(folder)


def write_scenes(
    folder: Path | str, world: World = FULL, seed: int = 0, count: int = 100, size: int = 192
) -> None:
    """Render scenes into a folder, holding one in memory at a time.

    Args:
        folder: to create.
        world: options to sample from.
        seed: random seed of the scenes.
        count: number of scenes.
        size: width and height of the images in pixels.

    Raises:
        FolderError: the folder exists or cannot be written.
        SceneError: the objects of a scene do not fit.
    """
    with atomic_folder(folder) as unfinished:
        (unfinished / IMAGES).mkdir()
        places: dict[str, list[int]] = {}
        position = 0
        with (unfinished / TRUTH).open("wb") as file:
            for scene_id in range(count):
                scene = render_scene(seed, scene_id, size, world)
                name = f"scene_{scene_id:06d}"
                image = unfinished / IMAGES / f"{name}.png"
                Image.fromarray(scene.image).save(image, compress_level=1)
                line = json.dumps(_encode(scene), separators=(",", ":")).encode() + b"\n"
                file.write(line)
                places[name] = [position, len(line)]
                position += len(line)
        description = {"world": asdict(world), "seed": seed, "count": count, "size": size}
        index = {"description": description, "scenes": places}
        (unfinished / INDEX).write_text(json.dumps(index, separators=(",", ":")))


def scene_truth(scene: Scene, image_id: str = "scene") -> SceneTruth:
    """Return the truth about a scene that is in memory."""
    return _decode(image_id, _encode(scene))


def overview(
    place_text: str, objects: tuple[ObjectTruth, ...], included: list[int], extra: str = ""
) -> CaptionTruth:
    """Return a caption of the place and of objects.

    A comma follows each object, so that each is a phrase of its own for every parser.

    Args:
        place_text: such as "a meadow at night".
        objects: of the scene.
        included: indices of the objects to name, in this order.
        extra: one more phrase, which names no object of the scene.
    """
    names = [objects[i].description for i in included] + [extra] * bool(extra)
    text = f"In {place_text}, there {'are' if len(names) > 1 else 'is'} "
    phrases = []
    for k, name in enumerate(names):
        if k:
            text += ", and " if k + 1 == len(names) else ", "
        if k < len(included):
            phrases.append((len(text), len(text) + len(name), (included[k],)))
        text += name
    return CaptionTruth(text + ".", tuple(phrases))


def statement(
    objects: tuple[ObjectTruth, ...], main: int, relation: str, other: int
) -> CaptionTruth:
    """Return a caption that states a relation of two objects, or that there is one object.

    Args:
        objects: of the scene.
        main: index of the first object.
        relation: one of RELATIONS; "" names only one object.
        other: index of the second object.
    """
    first = objects[main].description
    start = first[0].upper() + first[1:]
    phrases = [(0, len(first), (main,))]
    if not relation:
        return CaptionTruth(f"{start} can be seen.", tuple(phrases))
    second = objects[other].description
    text = f"{start} is {relation} "
    phrases.append((len(text), len(text) + len(second), (other,)))
    return CaptionTruth(f"{text}{second}.", tuple(phrases))


def _positions(scene: Scene) -> list[str]:
    """Return where each object is among those of its size, colour and shape, from left to right."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, item in enumerate(scene.objects):
        key = (item.shape, item.colour, item.size)
        groups.setdefault(key, []).append(i)
    result = [""] * len(scene.objects)
    for group in groups.values():
        group.sort(key=lambda i: scene.objects[i].x)
        for k, i in enumerate(group if len(group) > 1 else ()):
            result[i] = POSITIONS[0 if k == 0 else 2 if k + 1 == len(group) else 1]
    return result


def _encode(scene: Scene) -> dict[str, Any]:
    """Return what is true about a scene, as JSON."""
    regions = {}
    for entity in scene_entities(scene):
        mask = entity_mask(scene, entity)
        regions[entity] = (mask_box(mask), rle.encode(mask)["counts"])
    positions = _positions(scene)
    named: dict[str, list[Any]] = {"stuff": [], "object": [], "part": []}
    for entity, (box, counts) in regions.items():
        item = scene.objects[entity.index] if entity.category != "stuff" else None
        if item is None:
            named["stuff"].append([scene.stuff[entity.index], box, counts])
        elif entity.category == "part":
            named["part"].append([item.part.name if item.part else "", box, counts])
        else:
            depth = round(FAR + NEAR_RANGE * item.depth, 2)
            words = [item.shape, item.colour, item.texture, item.size, positions[entity.index]]
            named["object"].append([*words, box, depth, 0.0, counts])
    labels = scene.rendering.labels.T.reshape(-1)
    starts = np.flatnonzero(np.diff(labels, prepend=255))
    lengths = np.diff(starts, append=labels.size)
    # Compressed as if it were a mask: the lengths fill the image.
    counts = rle.compress({"size": list(scene.rendering.labels.shape), "counts": lengths})
    values = (labels[starts] + FIRST_LABEL).astype(np.uint8).tobytes().decode("ascii")
    order = sorted(range(len(scene.objects)), key=lambda i: -int(scene.object_mask(i).sum()))
    pairs = [(a, b) for a in order for b in order if a != b]
    result = {
        "size": scene.size,
        "place": scene.layout.place,
        "place_text": place_description(scene),
        "objects": named["object"],
        "stuff": named["stuff"],
        "parts": named["part"],
        "captions": [],
        "relations": [
            [a, name, b]
            for name in RELATIONS
            for a, b in pairs
            if is_related(scene, name, a, b, certain=False)
        ],
        "runs": [values, counts["counts"]],
    }
    truth = _decode("", result)
    depth = truth.depth_map()
    for item in result["objects"]:
        item[7] = box_depth(depth, item[5])
    captions = [_relation(scene, truth, order), overview(truth.place_text, truth.objects, order)]
    result["captions"] = [list(caption) for caption in captions]
    return result


def _relation(scene: Scene, truth: SceneTruth, order: list[int]) -> CaptionTruth:
    """Return a caption of the largest object and one that it is certainly related to."""
    main, *others = order
    related = [
        (name, i)
        for i in others
        for name in RELATIONS
        if is_related(scene, name, main, i, certain=True)
    ]
    if not related:
        return statement(truth.objects, main, "", main)
    name, other = related[int(text_rng(scene).integers(len(related)))]
    return statement(truth.objects, main, name, other)


def box_depth(depth: Float32[np.ndarray, "h w"], box: Box) -> float:
    """Return the median of the depths in a box of whole pixels, with two decimals."""
    x0, y0, x1, y1 = map(int, box)
    return round(float(np.median(depth[y0:y1, x0:x1])), 2)


def _decode(image_id: str, value: dict[str, Any]) -> SceneTruth:
    """Read what `_encode` returns.

    Raises:
        KeyError: a field is missing.
        TypeError: a field has a wrong type.
        ValueError: a field has a wrong length.
    """
    objects = []
    for *words, box, depth, median, counts in value["objects"]:
        shape, colour, texture, size, position = words
        appearance = (shape, colour, texture, size, position)
        objects.append(ObjectTruth(*appearance, _box(box), depth, median, counts))
    captions = tuple(
        CaptionTruth(text, tuple((start, end, tuple(ids)) for start, end, ids in phrases))
        for text, phrases in value["captions"]
    )
    values, counts = value["runs"]
    return SceneTruth(
        image_id=image_id,
        size=value["size"],
        place=value["place"],
        place_text=value["place_text"],
        objects=tuple(objects),
        stuff=tuple(RegionTruth(name, _box(box), runs) for name, box, runs in value["stuff"]),
        parts=tuple(RegionTruth(name, _box(box), runs) for name, box, runs in value["parts"]),
        captions=captions,
        relations=frozenset((a, name, b) for a, name, b in value["relations"]),
        runs=(values, counts),
    )


def _box(value: Any) -> Box:
    x0, y0, x1, y1 = value
    return x0, y0, x1, y1

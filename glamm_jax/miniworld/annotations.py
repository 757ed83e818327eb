"""A scene as the house takes it: a record with annotations of all tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.record import Annotation, Link, Record, Region
from glamm_jax.miniworld.captions import (
    SceneCaption,
    SceneEntity,
    dense_caption,
    object_description,
    short_captions,
)
from glamm_jax.miniworld.expressions import (
    plural_expression,
    rich_expression,
    simple_expression,
)
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.vqa import vqa_turns

SOURCE_NAME = "miniworld"
JPEG_QUALITY = 92
WORDS = 1 << 20  # sets the lots for words apart from the attempts at a picture

GroundedTexts = list[tuple[str, tuple[SceneEntity, ...]]]


def scene_record(one: Scene, split: str = "train") -> Record:
    """Everything that is said about a scene: annotations of all tasks."""
    mentions = scene_entities(one)
    number = {mention: i for i, mention in enumerate(mentions)}
    size = one.size
    return Record(
        image=encode_jpeg(one.image),
        image_id=f"{one.seed}-{one.scene_id}",
        source=SOURCE_NAME,
        split=split,
        height=size,
        width=size,
        regions=tuple(_region(entity_mask(one, mention)) for mention in mentions),
        annotations=tuple(_annotations(one, number)),
    )


def text_rng(one: Scene) -> np.random.Generator:
    """What chooses among the things that can be said about a scene."""
    return np.random.default_rng((one.seed, one.scene_id, WORDS))


def scene_entities(one: Scene) -> tuple[SceneEntity, ...]:
    """Everything that has a region: stuff, things, parts."""
    things = range(len(one.objects))
    return (
        *(SceneEntity("stuff", i) for i in range(len(one.stuff))),
        *(SceneEntity("thing", i) for i in things),
        *(SceneEntity("part", i) for i in things if one.objects[i].part),
    )


def entity_mask(one: Scene, mention: SceneEntity) -> Bool[np.ndarray, "s s"]:
    """What is seen of it."""
    masks_of = {"stuff": one.stuff_mask, "thing": one.object_mask, "part": one.part_mask}
    return masks_of[mention.category](mention.index)


def union_mask(one: Scene, mentions: tuple[SceneEntity, ...]) -> Bool[np.ndarray, "s s"]:
    """What is seen of several."""
    return np.any([entity_mask(one, mention) for mention in mentions], axis=0)


def referring_expressions(one: Scene, rng: np.random.Generator) -> GroundedTexts:
    """Texts that mean one thing, one part, or all things of a kind, and nothing else."""
    said: GroundedTexts = []
    for i, thing in enumerate(one.objects):
        simple = simple_expression(one, i)
        rich = rich_expression(one, i, rng) if one.world.text_style == "rich" else None
        texts = dict.fromkeys(query.text for query in (simple, rich) if query is not None)
        said += [(text, (SceneEntity("thing", i),)) for text in texts]
        if thing.part is not None and simple is not None:
            text = f"{thing.part.colour} {thing.part.name} of the {simple.text}"
            said.append((text, (SceneEntity("part", i),)))
        several = plural_expression(one, i)
        if several is not None and i == min(several[1]):
            mentions = tuple(SceneEntity("thing", j) for j in sorted(several[1]))
            said.append((several[0].text, mentions))
    return said


def semantic_classes(one: Scene) -> list[tuple[str, tuple[SceneEntity, ...]]]:
    """Stuff and shapes, each with all that belongs to it."""
    found = {name: [SceneEntity("stuff", i)] for i, name in enumerate(one.stuff)}
    for i, thing in enumerate(one.objects):
        found.setdefault(thing.shape, []).append(SceneEntity("thing", i))
    return [(name, tuple(mentions)) for name, mentions in found.items()]


def encode_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture's file, the same bytes from the same pixels."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def mask_box(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """The box around a mask, x0, y0, x1, y1 in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _region(mask: Bool[np.ndarray, "h w"]) -> Region:
    return Region(mask_box(mask), rle.encode(mask)["counts"].encode("ascii"))


def _annotations(one: Scene, number: dict[SceneEntity, int]) -> Iterator[Annotation]:
    rng = text_rng(one)

    def whole(mentions: tuple[SceneEntity, ...]) -> tuple[Link, ...]:
        return tuple(Link(number[mention]) for mention in mentions)

    def spans(caption: SceneCaption) -> tuple[Link, ...]:
        return tuple(
            Link(number[mention], phrase.start, phrase.end)
            for phrase in caption.phrases
            for mention in phrase.entities
        )

    dense = dense_caption(one, rng)
    yield Annotation("gcg", dense.text, spans(dense))
    short = short_captions(one, rng)
    if one.world.text_style == "rich":  # in plain words the same question always asks for everything
        yield Annotation("gcg", short[0].text, spans(short[0]))
    for text, mentions in referring_expressions(one, rng):
        yield Annotation("referring", text, whole(mentions))
    for name, mentions in semantic_classes(one):
        yield Annotation("semantic", name, whole(mentions))
    for i in range(len(one.objects)):
        yield Annotation("region", object_description(one, i), whole((SceneEntity("thing", i),)))
    for caption in short:
        yield Annotation("caption", caption.text)
    yield Annotation("vqa", turns=vqa_turns(one, rng))

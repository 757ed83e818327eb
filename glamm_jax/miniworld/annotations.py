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
    Caption,
    Mention,
    dense_caption,
    description,
    short_captions,
)
from glamm_jax.miniworld.expressions import (
    plural_expression,
    rich_expression,
    simple_expression,
)
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.vqa import conversation

NAME = "miniworld"
JPEG_QUALITY = 92
WORDS = 1 << 20  # sets the lots for words apart from the attempts at a picture

Expressions = list[tuple[str, tuple[Mention, ...]]]


def record(one: Scene, split: str = "train") -> Record:
    """Everything that is said about a scene: annotations of all tasks."""
    mentions = all_mentions(one)
    number = {mention: i for i, mention in enumerate(mentions)}
    size = one.size
    return Record(
        image=jpeg(one.image),
        image_id=f"{one.seed}-{one.scene_id}",
        source=NAME,
        split=split,
        height=size,
        width=size,
        regions=tuple(_region(mask_of(one, mention)) for mention in mentions),
        annotations=tuple(_annotations(one, number)),
    )


def words_lots(one: Scene) -> np.random.Generator:
    """What chooses among the things that can be said about a scene."""
    return np.random.default_rng((one.seed, one.scene_id, WORDS))


def all_mentions(one: Scene) -> tuple[Mention, ...]:
    """Everything that has a region: stuff, things, parts."""
    things = range(len(one.things))
    return (
        *(Mention("stuff", i) for i in range(len(one.stuff))),
        *(Mention("thing", i) for i in things),
        *(Mention("part", i) for i in things if one.things[i].part),
    )


def mask_of(one: Scene, mention: Mention) -> Bool[np.ndarray, "s s"]:
    """What is seen of it."""
    masks_of = {"stuff": one.stuff_mask, "thing": one.thing_mask, "part": one.part_mask}
    return masks_of[mention.sort](mention.number)


def mask_of_all(one: Scene, mentions: tuple[Mention, ...]) -> Bool[np.ndarray, "s s"]:
    """What is seen of several."""
    return np.any([mask_of(one, mention) for mention in mentions], axis=0)


def expressions(one: Scene, rng: np.random.Generator) -> Expressions:
    """Texts that mean one thing, one part, or all things of a kind, and nothing else."""
    said: Expressions = []
    for i, thing in enumerate(one.things):
        simple = simple_expression(one, i)
        rich = rich_expression(one, i, rng) if one.world.words == "rich" else None
        texts = dict.fromkeys(query.text for query in (simple, rich) if query is not None)
        said += [(text, (Mention("thing", i),)) for text in texts]
        if thing.part is not None and simple is not None:
            text = f"{thing.part.colour} {thing.part.name} of the {simple.text}"
            said.append((text, (Mention("part", i),)))
        several = plural_expression(one, i)
        if several is not None and i == min(several[1]):
            mentions = tuple(Mention("thing", j) for j in sorted(several[1]))
            said.append((several[0].text, mentions))
    return said


def classes(one: Scene) -> list[tuple[str, tuple[Mention, ...]]]:
    """Stuff and shapes, each with all that belongs to it."""
    found = {name: [Mention("stuff", i)] for i, name in enumerate(one.stuff)}
    for i, thing in enumerate(one.things):
        found.setdefault(thing.shape, []).append(Mention("thing", i))
    return [(name, tuple(mentions)) for name, mentions in found.items()]


def jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture's file, the same bytes from the same pixels."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def bounds(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """The box around a mask, x0, y0, x1, y1 in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _region(mask: Bool[np.ndarray, "h w"]) -> Region:
    return Region(bounds(mask), rle.encode(mask)["counts"].encode("ascii"))


def _annotations(one: Scene, number: dict[Mention, int]) -> Iterator[Annotation]:
    rng = words_lots(one)

    def whole(mentions: tuple[Mention, ...]) -> tuple[Link, ...]:
        return tuple(Link(number[mention]) for mention in mentions)

    def spans(caption: Caption) -> tuple[Link, ...]:
        return tuple(
            Link(number[mention], phrase.start, phrase.end)
            for phrase in caption.phrases
            for mention in phrase.mentions
        )

    dense = dense_caption(one, rng)
    yield Annotation("gcg", dense.text, spans(dense))
    short = short_captions(one, rng)
    if one.world.words == "rich":  # in plain words the same question always asks for everything
        yield Annotation("gcg", short[0].text, spans(short[0]))
    for text, mentions in expressions(one, rng):
        yield Annotation("referring", text, whole(mentions))
    for name, mentions in classes(one):
        yield Annotation("semantic", name, whole(mentions))
    for i in range(len(one.things)):
        yield Annotation("region", description(one, i), whole((Mention("thing", i),)))
    for caption in short:
        yield Annotation("caption", caption.text)
    yield Annotation("vqa", turns=conversation(one, rng))

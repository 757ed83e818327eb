"""Records of scenes with annotations of all tasks, and the masks of everything in a scene."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.record import Annotation, Link, Record, Region, Task
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
TEXT_STREAM = 1 << 20  # separates the random stream of texts from those of layout attempts

GroundedTexts = list[tuple[str, tuple[SceneEntity, ...]]]


def scene_record(scene: Scene, split: str = "train") -> Record:
    """Return the record of a scene, with annotations of all tasks."""
    entities = scene_entities(scene)
    regions = []
    for entity in entities:
        mask = entity_mask(scene, entity)
        regions.append(Region(mask_box(mask), rle.encode(mask)["counts"].encode("ascii")))
    size = scene.size
    return Record(
        image=encode_jpeg(scene.image),
        image_id=f"{scene.seed}-{scene.scene_id}",
        source=SOURCE_NAME,
        split=split,
        height=size,
        width=size,
        regions=tuple(regions),
        annotations=_annotations(scene, {entity: i for i, entity in enumerate(entities)}),
    )


def text_rng(scene: Scene) -> np.random.Generator:
    """Return the random generator of a scene's texts, in its initial state."""
    return np.random.default_rng((scene.seed, scene.scene_id, TEXT_STREAM))


def scene_entities(scene: Scene) -> tuple[SceneEntity, ...]:
    """Return everything that has a mask: stuff, then objects, then parts."""
    indices = range(len(scene.objects))
    return (
        *(SceneEntity("stuff", i) for i in range(len(scene.stuff))),
        *(SceneEntity("object", i) for i in indices),
        *(SceneEntity("part", i) for i in indices if scene.objects[i].part),
    )


def entity_mask(scene: Scene, entity: SceneEntity) -> Bool[np.ndarray, "s s"]:
    """Return the visible pixels of an entity."""
    masks = {"stuff": scene.stuff_mask, "object": scene.object_mask, "part": scene.part_mask}
    return masks[entity.category](entity.index)


def union_mask(scene: Scene, entities: tuple[SceneEntity, ...]) -> Bool[np.ndarray, "s s"]:
    """Return the visible pixels of several entities."""
    return np.any([entity_mask(scene, entity) for entity in entities], axis=0)


def referring_expressions(scene: Scene, rng: np.random.Generator) -> GroundedTexts:
    """Return unambiguous expressions of single objects, their parts, and all objects of a kind."""
    expressions: GroundedTexts = []
    for i, item in enumerate(scene.objects):
        simple = simple_expression(scene, i)
        rich = rich_expression(scene, i, rng) if scene.world.text_style == "rich" else None
        texts = dict.fromkeys(query.text for query in (simple, rich) if query is not None)
        expressions += [(text, (SceneEntity("object", i),)) for text in texts]
        if item.part is not None and simple is not None:
            text = f"{item.part.colour} {item.part.name} of the {simple.text}"
            expressions.append((text, (SceneEntity("part", i),)))
        plural = plural_expression(scene, i)
        if plural is not None and i == min(plural[1]):
            entities = tuple(SceneEntity("object", j) for j in sorted(plural[1]))
            expressions.append((plural[0].text, entities))
    return expressions


def semantic_classes(scene: Scene) -> GroundedTexts:
    """Return the classes of the scene, stuff and shapes, each with all its entities."""
    classes = {name: [SceneEntity("stuff", i)] for i, name in enumerate(scene.stuff)}
    for i, item in enumerate(scene.objects):
        classes.setdefault(item.shape, []).append(SceneEntity("object", i))
    return [(name, tuple(entities)) for name, entities in classes.items()]


def encode_jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode an image as JPEG; equal pixels give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def mask_box(mask: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """Return the bounding box of a mask as x0, y0, x1, y1 in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _annotations(scene: Scene, region_of: dict[SceneEntity, int]) -> tuple[Annotation, ...]:
    rng = text_rng(scene)
    annotations: list[Annotation] = []

    def add(task: Task, text: str, entities: tuple[SceneEntity, ...]) -> None:
        links = tuple(Link(region_of[entity]) for entity in entities)
        annotations.append(Annotation(task, text, links))

    def add_grounded(caption: SceneCaption) -> None:
        links = tuple(
            Link(region_of[entity], span.start, span.end)
            for span in caption.phrases
            for entity in span.entities
        )
        annotations.append(Annotation("gcg", caption.text, links))

    add_grounded(dense_caption(scene, rng))
    short = short_captions(scene, rng)
    # In plain style all questions ask for all objects, which a short caption does not name.
    if scene.world.text_style == "rich":
        add_grounded(short[0])
    for text, entities in referring_expressions(scene, rng):
        add("referring", text, entities)
    for name, entities in semantic_classes(scene):
        add("semantic", name, entities)
    for i in range(len(scene.objects)):
        add("region", object_description(scene, i), (SceneEntity("object", i),))
    annotations += [Annotation("caption", caption.text) for caption in short]
    annotations.append(Annotation("vqa", turns=vqa_turns(scene, rng)))
    return tuple(annotations)

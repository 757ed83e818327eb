"""Oracles that are asked about boxes and phrases of an image.

A box means the object, stuff or part that it overlaps most, if their intersection over union is at
least `SAME_IOU`; a phrase means what its first words name.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from glamm_jax.grand.adapters.noise import seeded_random
from glamm_jax.grand.adapters.oracle import (
    OracleRole,
    box_mask,
    eroded,
    seeded_choice,
    with_wrong_property,
)
from glamm_jax.grand.geometry import plain_iou
from glamm_jax.grand.record import Box, Detection, RunLengths
from glamm_jax.grand.roles import LabelQuestion, PhraseQuery, Results, RoleImage, Tag
from glamm_jax.miniworld.captions import with_article
from glamm_jax.miniworld.mentions import head_mention
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.truth_folder import ObjectTruth, RegionTruth, SceneTruth
from glamm_jax.miniworld.world import COLOURS

SAME_IOU = 0.5
Entity = ObjectTruth | RegionTruth


class OracleRegionClassifier(OracleRole):
    """Shapes of objects, names of stuff and parts; a low score where there is nothing."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[Detection]]:
        return self.answer_each(images, self._answer, boxes)

    def _answer(self, truth: SceneTruth, boxes: Sequence[Box]) -> list[Detection]:
        result = []
        for box in boxes:
            entity = find_entity(truth, box)
            rng = region_random(self, truth, box, entity)
            confused, score, choice = rng.random(), rng.random(), seeded_choice(rng.random())
            label = choice(list(SHAPES)) if entity is None else label_of(entity)
            if entity is not None and confused < self.noise.label_confusion:
                label = choice([name for name in SHAPES if name != label])
            low = 0.02 if entity is None else 0.5
            result.append(Detection(box, round(low * (1 + 0.9 * score), 4), label))
        return result


class OracleRegionCaptioner(OracleRole):
    """The description of an object; an invented object where there is nothing."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[str]]:
        return self.answer_each(images, self._answer, boxes)

    def _answer(self, truth: SceneTruth, boxes: Sequence[Box]) -> list[str]:
        return [self._describe(truth, box) for box in boxes]

    def _describe(self, truth: SceneTruth, box: Box) -> str:
        entity = find_entity(truth, box)
        if isinstance(entity, RegionTruth):
            return f"the {entity.name}"
        rng = region_random(self, truth, box, entity)
        if entity is None:
            return with_article(f"{rng.choice(list(COLOURS))} {rng.choice(list(SHAPES))}")
        if rng.random() < self.noise.attribute_errors:
            entity = with_wrong_property(entity, seeded_choice(rng.random()))
        return entity.description


class OracleLabelChooser(OracleRole):
    """The correct label if the list has it, otherwise the first one."""

    def __call__(
        self, images: Sequence[RoleImage], questions: Sequence[Sequence[LabelQuestion]]
    ) -> Results[list[Tag]]:
        return self.answer_each(images, self._answer, questions)

    def _answer(self, truth: SceneTruth, questions: Sequence[LabelQuestion]) -> list[Tag]:
        return [self._choose(truth, box, labels) for box, labels in questions]

    def _choose(self, truth: SceneTruth, box: Box, labels: Sequence[str]) -> Tag:
        if not labels:
            return Tag("", 0.0)
        entity = find_entity(truth, box)
        rng = region_random(self, truth, box, entity)
        is_wrong, choice = rng.random() < self.noise.choice_errors, seeded_choice(rng.random())
        label = label_of(entity) if entity is not None else labels[0]
        others = [name for name in labels if name != label]
        if others and (is_wrong or label not in labels):
            return Tag(choice(others) if is_wrong else labels[0], 0.6)
        return Tag(label, 0.95)


class OracleSegmenter(OracleRole):
    """The mask of what is in a box; all of the box where there is nothing."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[RunLengths]]:
        return self.answer_each(images, self._answer, boxes)

    def _answer(self, truth: SceneTruth, boxes: Sequence[Box]) -> list[RunLengths]:
        result = []
        for box in boxes:
            entity = find_entity(truth, box)
            if entity is None:
                result.append(box_mask(truth, box))
                continue
            width = region_random(self, truth, box, entity).random()
            share = self.noise.mask_erosion
            result.append(eroded(truth, entity.box, entity.counts, share, width)[1])
        return result


class OraclePhraseGrounder(OracleRole):
    """A box for each object that a phrase names; none for phrases that begin with anything else.

    If more objects have the stated properties than the phrase names, it means the nearest ones.
    """

    def __call__(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> Results[list[list[Detection]]]:
        return self.answer_each(images, self._answer, phrases)

    def _answer(self, truth: SceneTruth, phrases: Sequence[PhraseQuery]) -> list[list[Detection]]:
        return [self._ground(truth, query.phrase) for query in phrases]

    def _ground(self, truth: SceneTruth, phrase: str) -> list[Detection]:
        objects = resolve_phrase(truth, phrase)
        misses = self.noise.grounding_misses
        if misses and self.random(truth, phrase.strip().lower()).random() < misses:
            return []
        return [Detection(truth.objects[i].box, 0.9) for i in objects]


def resolve_phrase(truth: SceneTruth, phrase: str) -> tuple[int, ...]:
    """Return the objects that the first words of a phrase name."""
    mention = head_mention(phrase.strip())
    if mention is None:
        return ()
    nearest = range(len(truth.objects) - 1, -1, -1)
    candidates = [i for i in nearest if mention.fits(truth.objects[i])]
    return tuple(candidates[: mention.number])


def find_entity(truth: SceneTruth, box: Box) -> Entity | None:
    """Return what a box contains: the object, stuff or part that it overlaps most."""
    best, best_overlap = None, SAME_IOU
    for entities in (truth.objects, truth.stuff, truth.parts):
        for entity in entities:
            value = plain_iou(box, entity.box)
            if value > best_overlap or (best is None and value == best_overlap):
                best, best_overlap = entity, value
    return best


def label_of(entity: Entity) -> str:
    """Return shape or name."""
    return entity.name if isinstance(entity, RegionTruth) else entity.shape


def region_random(
    role: OracleRole, truth: SceneTruth, box: Box, entity: Entity | None
) -> random.Random:
    """Return the random generator of what is in a box, whatever the exact box, or of the box.

    Args:
        role: whose name is used.
        truth: about the scene.
        box: the box.
        entity: what it contains.
    """
    key: Any = box if entity is None else entity.box
    return seeded_random(truth.image_id, role.name, key)

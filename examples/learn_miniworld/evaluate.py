"""What the model can do on scenes that it has never seen: greedy answers against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.inference.answer import Answer
from glamm_jax.inference.chat import Assistant, Question
from glamm_jax.metrics.iou import iou
from glamm_jax.metrics.phrase_matching import PhraseScores, content_words, score_phrases, sum_scores
from glamm_jax.miniworld import Scene, World, render_scene
from glamm_jax.miniworld.annotations import mask_box, referring_expressions, text_rng, union_mask
from glamm_jax.miniworld.captions import object_description
from glamm_jax.text.questions import (
    GCG_QUESTIONS,
    REGION_QUESTIONS,
    SEGMENTATION_QUESTIONS,
    format_question,
)

TEST_SEED = 900_001  # of scenes for tests; training draws from other seeds
LONGEST_ANSWER = 64  # tokens


@dataclass(frozen=True)
class Asked:
    """One question about a scene, its answer, what that is worth, and the true (phrase, mask)s."""

    scene: int
    task: str
    text: str
    answer: Answer
    score: float
    true: Sequence[tuple[str, Bool[np.ndarray, "h w"]]] = ()


@dataclass(frozen=True)
class Scores:
    """The figures of one evaluation; all in 0 to 1.

    referring_miou: mean over expressions. shuffled_miou: the same pictures asked for expressions of
    other pictures. swapped_miou: asked for another thing of the same picture.
    phrases_right: the smaller of phrase_recall and phrase_precision.
    phrase_mask_iou: mean over all true phrases. regions_right: captions with colour and shape.
    """

    scenes: int
    referring_miou: float
    shuffled_miou: float
    swapped_miou: float
    phrases_right: float
    phrase_recall: float
    phrase_precision: float
    phrase_mask_iou: float
    regions_right: float
    unseen: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Fields for JSON."""
        return asdict(self)


def held_out_scenes(world: World, size: int, seed: int = TEST_SEED) -> Iterator[Scene]:
    """Scenes of the seed, one after another, in which two things have the same colour."""
    for scene_id in count():
        one = render_scene(seed, scene_id, size, world)
        colours = [thing.colour for thing in one.objects]
        if len(set(colours)) < len(colours):
            yield one


class Evaluation:
    """Questions about scenes, answered `at_once` pictures at a time."""

    def __init__(self, assistant: Assistant, scenes: Sequence[Scene], at_once: int = 50):
        self.assistant, self.scenes, self.at_once = assistant, scenes, at_once
        self.asked: list[Asked] = []
        self.expressions = [referring_expressions(one, text_rng(one)) for one in scenes]

    def _answers(self, questions: list[Question], size: int) -> Iterator[Answer]:
        for start in range(0, len(questions), size):
            part = questions[start : start + size]
            spare = [part[0]] * (size - len(part))
            yield from self.assistant.chat_many([*part, *spare])[: len(part)]

    def _question(self, number: int, prompt: str, regions: Any = ()) -> Question:
        image = self.scenes[number].image
        return Question(image, prompt, regions, max_tokens=LONGEST_ANSWER)

    def captions(self, unseen: frozenset[Any] = frozenset()) -> tuple[PhraseScores, PhraseScores]:
        """Scores of grounded captions: of all phrases, and of unseen kinds alone."""
        prompt = GCG_QUESTIONS[0]
        asked = [self._question(i, prompt) for i in range(len(self.scenes))]
        every, some = [], []
        for i, answer in enumerate(self._answers(asked, self.at_once)):
            one = self.scenes[i]
            said = [(each.phrase, each.mask) for each in answer.groundings]
            true = [
                (f"{t.colour} {t.shape}", one.object_mask(k)) for k, t in enumerate(one.objects)
            ]
            score = score_phrases(said, true)
            every.append(score)
            new = [
                pair for pair, thing in zip(true, one.objects, strict=True) if thing.kind in unseen
            ]
            some.append(score_phrases(said, new))
            self.asked.append(Asked(i, "gcg", prompt, answer, score.mask_iou, true))
        return sum_scores(every), sum_scores(some)

    def referring(self, shift: str = "") -> list[tuple[float, Any]]:
        """(IoU, kind) of every expression.

        shift: "" asks each picture for its own; "shuffled" for those of the next pictures;
        "swapped" for the next thing of the same picture. The truth stays that of its own.
        """
        own = [(i, text, m) for i, said in enumerate(self.expressions) for text, m in said]
        texts = [text for _, text, _ in own]
        if shift == "shuffled":
            texts = texts[7:] + texts[:7]
        if shift == "swapped":
            texts = [text for said in self.expressions for text, _ in [*said[1:], *said[:1]]]
        prompts = [format_question(SEGMENTATION_QUESTIONS, 0, text) for text in texts]
        asked = [self._question(i, p) for (i, _, _), p in zip(own, prompts, strict=True)]
        found = []
        answers = self._answers(asked, 2 * self.at_once)
        for (i, text, mentions), answer in zip(own, answers, strict=True):
            one = self.scenes[i]
            mask = answer.groundings[0].mask if answer.groundings else None
            truth = union_mask(one, mentions)
            score = iou(mask, truth)
            kind = one.objects[mentions[0].index].kind
            found.append((score, kind))
            if not shift:
                self.asked.append(Asked(i, "referring", text, answer, score, [("", truth)]))
        return found

    def regions(self) -> list[tuple[bool, Any]]:
        """(right, kind) of every thing's caption, asked by its box."""
        where = [(i, k) for i, one in enumerate(self.scenes) for k in range(len(one.objects))]
        prompt = format_question(REGION_QUESTIONS, 0, num_regions=1)
        asked = [
            self._question(i, prompt, [mask_box(self.scenes[i].object_mask(k))]) for i, k in where
        ]
        found = []
        for (i, k), answer in zip(where, self._answers(asked, 2 * self.at_once), strict=True):
            one = self.scenes[i]
            right = content_words(answer.text) == content_words(object_description(one, k))
            found.append((right, one.objects[k].kind))
            self.asked.append(Asked(i, "region", prompt, answer, float(right)))
        return found


def evaluate(evaluation: Evaluation, unseen: Sequence[Any] = ()) -> Scores:
    """All figures. unseen: kinds that were withheld from training, which are also scored alone."""
    new = frozenset(unseen)
    every, some = evaluation.captions(new)
    referring, regions = evaluation.referring(), evaluation.regions()

    def mean(values: list) -> float:
        return float(np.mean([value for value, _ in values])) if values else 0.0

    only = lambda values: [(value, kind) for value, kind in values if kind in new]  # noqa: E731
    alone = {
        "referring_miou": mean(only(referring)),
        "phrase_recall": some.recall,
        "phrase_mask_iou": some.mask_iou,
        "regions_right": mean(only(regions)),
    }
    return Scores(
        scenes=len(evaluation.scenes),
        referring_miou=mean(referring),
        shuffled_miou=mean(evaluation.referring("shuffled")),
        swapped_miou=mean(evaluation.referring("swapped")),
        phrases_right=every.min_precision_recall,
        phrase_recall=every.recall,
        phrase_precision=every.precision,
        phrase_mask_iou=every.mask_iou,
        regions_right=mean(regions),
        unseen=alone if new else {},
    )

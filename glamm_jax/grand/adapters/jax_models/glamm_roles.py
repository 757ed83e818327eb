"""GLaMM: captions, descriptions of regions, phrases with masks, the kind of place."""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.data import rle
from glamm_jax.grand.adapters.jax_models.model_role import ModelRole
from glamm_jax.grand.adapters.usable_images import answer_usable
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import (
    LANDMARKS,
    Landmark,
    PhraseQuery,
    Results,
    RoleError,
    RoleImage,
)
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, Question, load
from glamm_jax.text.questions import (
    GCG_INSTRUCTION,
    REFERRING_INSTRUCTION,
    REGION_INSTRUCTION,
)

CAPTION_PROMPT = "Can you provide a brief description of the image?"
LANDMARK_PROMPT = (
    "Which of these describes the place in the image best: {choices}? Answer with one of them."
)


class GLaMMRole(ModelRole[Assistant]):
    """A role of a GLaMM.

    Args:
        model: a model folder, or ORG/NAME of the Hugging Face Hub.
        name: of the model.
        dtype: of the weights and of the computation; "": as stored.
        batch_size: images of a call.
        prompt: of the question; "": the default of the class.
        max_tokens: longest answer.
    """

    default_prompt = ""
    default_tokens = 64

    def __init__(
        self,
        model: str,
        name: str = "glamm",
        dtype: str = "",
        batch_size: int = 8,
        prompt: str = "",
        max_tokens: int = 0,
    ):
        self._prompt = prompt or self.default_prompt
        self._max_tokens = max_tokens or self.default_tokens
        settings = {"prompt": self._prompt, "max_tokens": self._max_tokens}
        super().__init__(name, model, dtype, batch_size, **settings)

    def load(self) -> Assistant:
        """Return the model."""
        return load(self._path, self.dtype)

    def ask(
        self, images: Sequence[RoleImage], prompts: Sequence[Sequence[tuple[str, Sequence[Box]]]]
    ) -> list[list[Answer]]:
        """Ask each image its questions, `batch_size` of them together.

        Args:
            images: the batch.
            prompts: for each image the questions and their boxes.
        """
        questions = [
            (number, Question(image.pixels, prompt, boxes, max_tokens=self._max_tokens))
            for number, (image, group) in enumerate(zip(images, prompts, strict=True))
            for prompt, boxes in group
        ]
        answers: list[list[Answer]] = [[] for _ in images]
        for start in range(0, len(questions), self.batch_size):
            part = questions[start : start + self.batch_size]
            for (number, _), answer in zip(
                part, self.model.chat_many([question for _, question in part]), strict=True
            ):
                answers[number].append(answer)
        return answers


class GLaMMCaptioner(GLaMMRole):
    """One sentence about an image; plays `captioners.NAME`."""

    default_prompt = CAPTION_PROMPT

    def __call__(self, images: Sequence[RoleImage]) -> Results[str]:
        return answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[str | RoleError]:
        answers = self.ask(images, [[(self._prompt, ())]] * len(images))
        return [text_of(answer) for (answer,) in answers]


class GLaMMRegionCaptioner(GLaMMRole):
    """A description of each box; plays `region_captioner`."""

    default_prompt = REGION_INSTRUCTION

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[str]]:
        return answer_usable(images, self._answer, boxes)

    def _answer(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> list[list[str]]:
        prompts = [[(self._prompt, (box,)) for box in group] for group in boxes]
        return [[answer.text.strip() for answer in group] for group in self.ask(images, prompts)]


class GLaMMDenseCaptioner(GLaMMRole):
    """The phrases of a grounded caption, each with its box; plays `dense_captioners.NAME`."""

    default_prompt = GCG_INSTRUCTION
    default_tokens = 256

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[list[Detection]]:
        answers = self.ask(images, [[(self._prompt, ())]] * len(images))
        return [
            [
                detection
                for item in answer.groundings
                if item.phrase
                for detection in detections(item, item.phrase)
            ]
            for (answer,) in answers
        ]


class GLaMMPhraseGrounder(GLaMMRole):
    """Box and mask of each phrase, by a segmentation question; plays `phrase_grounder`.

    The prompt has {name} in the place of the phrase.
    """

    default_prompt = REFERRING_INSTRUCTION
    default_tokens = 32

    def __call__(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> Results[list[list[Detection]]]:
        return answer_usable(images, self._answer, phrases)

    def _answer(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> list[list[list[Detection]]]:
        prompts = [
            [(self._prompt.replace("{name}", query.phrase), ()) for query in group]
            for group in phrases
        ]
        return [
            [
                [x for item in answer.groundings for x in detections(item, query.phrase)]
                for query, answer in zip(group, answers, strict=True)
            ]
            for group, answers in zip(phrases, self.ask(images, prompts), strict=True)
        ]


class GLaMMLandmarkClassifier(GLaMMRole):
    """The kind of place, by two multiple-choice questions; plays `landmark_classifier`.

    The prompt has {choices} in the place of the names.
    """

    default_prompt = LANDMARK_PROMPT
    default_tokens = 32

    def __call__(self, images: Sequence[RoleImage]) -> Results[Landmark]:
        return answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Landmark | RoleError]:
        results: list[Landmark | RoleError] = [RoleError("output", "")] * len(images)
        main = self._choose(images, [tuple(LANDMARKS)] * len(images))
        chosen = [i for i, name in enumerate(main) if isinstance(name, str)]
        fine = self._choose([images[i] for i in chosen], [LANDMARKS[str(main[i])] for i in chosen])
        for i, name in zip(chosen, fine, strict=True):
            results[i] = name if isinstance(name, RoleError) else Landmark(str(main[i]), name)
        return [
            name if isinstance(name, RoleError) else result
            for name, result in zip(main, results, strict=True)
        ]

    def _choose(
        self, images: Sequence[RoleImage], choices: Sequence[Sequence[str]]
    ) -> list[str | RoleError]:
        """Return the choice that each answer names first in the order of the choices."""
        prompts = [[(self._prompt.replace("{choices}", ", ".join(names)), ())] for names in choices]
        chosen: list[str | RoleError] = []
        for names, (answer,) in zip(choices, self.ask(images, prompts), strict=True):
            named = [name for name in names if name.lower() in answer.text.lower()]
            error = RoleError("output", f"{answer.text[:80]!r} names none of {', '.join(names)}")
            chosen.append(named[0] if named else error)
        return chosen


def text_of(answer: Answer) -> str | RoleError:
    """Return the text of an answer; an empty one is an error."""
    return answer.text.strip() or RoleError("output", "the answer is empty")


def detections(item: Grounding, description: str) -> list[Detection]:
    """Return the mask of a phrase with its box; none if it is empty.

    Args:
        item: the phrase and its mask.
        description: of the detection.
    """
    box = None if item.runs is None else rle.box(item.runs)
    if box is None or item.score is None:
        return []
    x0, y0, x1, y1 = map(float, box)
    return [Detection((x0, y0, x1, y1), item.score, description=description, mask=item.runs)]

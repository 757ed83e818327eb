"""The roles that models play in the annotation, one protocol each.

A role is a class whose instances are created once per worker (`setup`) and called with batches. A
call returns one result per item, in order; an item that fails has a `RoleError` as its result, so
that one image never affects another. Models of the reference: `Role` docstrings below. A role
whose device memory bounds the batch has an attribute `batch_size` beside those of `Role`.

    class Constant:
        name, fingerprint, needs_device = "constant", "constant-1", False
        def setup(self) -> None: ...
        def __call__(self, images):
            return [[Detection((0.0, 0.0, 8.0, 8.0), 0.9, "dog")] for _ in images]

Source: GranD/README, and glamm-paper.txt section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from glamm_jax.grand.record import Box, Detection, RunLengths, Span

Pixels = UInt8[np.ndarray, "h w 3"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class RoleError:
    """Why a model has no result for an item.

    Attributes:
        kind: "input", "output", "memory" or "model"; only memory errors are tried again in smaller
            batches.
        message: in one line.
    """

    kind: str
    message: str


Results = list[Result | RoleError]


@dataclass(frozen=True, eq=False)
class RoleImage:
    """An image as roles get it.

    Attributes:
        image_id: of the run; also the seed of roles that sample.
        pixels: upright RGB.
        seed: of this image, stage and attempt.
    """

    image_id: str
    pixels: Pixels
    seed: int = 0


@runtime_checkable
class Role(Protocol):
    """What all roles have.

    Attributes:
        name: of the model, e.g. "google/owlv2-base-patch16"; recorded with each result.
        fingerprint: changes with everything that changes results: weights, prompts, thresholds.
        needs_device: one worker per accelerator instead of one per core.
    """

    name: str
    fingerprint: str
    needs_device: bool

    def setup(self) -> None:
        """Load the weights; called once in each worker, before the first call."""
        ...


class Tag(NamedTuple):
    """A word for the contents of an image, with its score in [0, 1]."""

    text: str
    score: float


@runtime_checkable
class Tagger(Role, Protocol):
    """Words for an image. Reference: RAM, Tag2Text."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Tag]]: ...


@runtime_checkable
class Detector(Role, Protocol):
    """Boxes of a fixed list of classes, some with masks. Reference: Co-DETR, EVA-02."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]: ...


@runtime_checkable
class OpenDetector(Role, Protocol):
    """Boxes of the classes that are asked for. Reference: OWL-ViT, POMP."""

    def __call__(
        self, images: Sequence[RoleImage], classes: Sequence[Sequence[str]]
    ) -> Results[list[Detection]]: ...


@runtime_checkable
class DenseCaptioner(Role, Protocol):
    """Boxes with descriptions. Reference: GRiT."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]: ...


@runtime_checkable
class RegionProposer(Role, Protocol):
    """Boxes with masks of everything, without labels. Reference: the masks of SA-1B."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]: ...


@runtime_checkable
class RegionClassifier(Role, Protocol):
    """A label for each proposed box. Reference: Open-Vocabulary SAM."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[Detection]]: ...


@runtime_checkable
class DepthEstimator(Role, Protocol):
    """Inverse depth, larger is nearer, at the size of the image. Reference: MiDaS."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[Float32[np.ndarray, "h w"]]: ...


# Kinds of places: category -> fine categories.
LANDMARKS: dict[str, tuple[str, ...]] = {
    "Indoor scene": ("Living space", "Work space", "Public space", "Industrial space"),
    "Outdoor scene": ("Urban landscape", "Rural landscape", "Natural landscape"),
    "Transportation scene": ("Road", "Airport", "Train station", "Port and harbor"),
    "Sports and recreation scene": (
        "Sporting venue",
        "Recreational area",
        "Gym and fitness center",
    ),
}


class Landmark(NamedTuple):
    """The kind of place of an image, one of `LANDMARKS`."""

    category: str
    fine_category: str


@runtime_checkable
class LandmarkClassifier(Role, Protocol):
    """The kind of place. Reference: LLaVA with two multiple-choice questions."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[Landmark]: ...


@runtime_checkable
class Captioner(Role, Protocol):
    """One sentence about an image. Reference: BLIP-2, LLaVA."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[str]: ...


class ParsedText(NamedTuple):
    """Tokens of a text as a dependency parser sees them; all columns have one length.

    Attributes:
        texts: the tokens.
        pos: universal part-of-speech tags: "NOUN", "ADJ", ...
        lemmas: base forms.
        is_stop: stop words.
        is_punct: punctuation.
        heads: index of the token that each depends on; -1 for a root.
    """

    texts: tuple[str, ...]
    pos: tuple[str, ...]
    lemmas: tuple[str, ...]
    is_stop: tuple[bool, ...]
    is_punct: tuple[bool, ...]
    heads: tuple[int, ...]


@runtime_checkable
class TextParser(Role, Protocol):
    """Dependency parses of texts. Reference: spaCy; ours: rules."""

    def __call__(self, texts: Sequence[str]) -> Results[ParsedText]: ...


class PhraseQuery(NamedTuple):
    """A phrase of a caption.

    Attributes:
        caption: the complete text.
        phrase: as in the caption.
        span: of the phrase in the caption; None if it is not a substring.
    """

    caption: str
    phrase: str
    span: Span | None


@runtime_checkable
class PhraseGrounder(Role, Protocol):
    """Boxes of each phrase with scores, in the order of the model. Reference: MDETR."""

    def __call__(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> Results[list[list[Detection]]]: ...


@runtime_checkable
class RegionCaptioner(Role, Protocol):
    """A description of each box. Reference: GPT4RoI."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[str]]: ...


class LabelQuestion(NamedTuple):
    """A box and the labels to choose from."""

    box: Box
    labels: tuple[str, ...]


@runtime_checkable
class LabelChooser(Role, Protocol):
    """The label that fits a box best, with its probability. Reference: EVA-CLIP."""

    def __call__(
        self, images: Sequence[RoleImage], questions: Sequence[Sequence[LabelQuestion]]
    ) -> Results[list[Tag]]: ...


@runtime_checkable
class Segmenter(Role, Protocol):
    """A mask for each box. Reference: HQ-SAM."""

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[RunLengths]]: ...


class ChatMessage(NamedTuple):
    """A message to a language model; `role` is "system", "user" or "assistant"."""

    role: str
    text: str


class LLMRequest(NamedTuple):
    """A request to a language model.

    Attributes:
        image_id: of the image that it is about.
        messages: the conversation, oldest first.
        seed: of the sampling.
    """

    image_id: str
    messages: tuple[ChatMessage, ...]
    seed: int


class LLMAnswer(NamedTuple):
    """An answer; `finish_reason` "stop" is a complete one, "length" one that was cut."""

    text: str
    finish_reason: str


@runtime_checkable
class TextLLM(Role, Protocol):
    """Answers to conversations. Reference: Vicuna-13B-v1.5 through vLLM."""

    def __call__(self, requests: Sequence[LLMRequest]) -> Results[LLMAnswer]: ...


RolePlayer = Any  # an instance of any of the protocols above


def take_usage(roles: Sequence[RolePlayer]) -> dict[str, dict[str, float]]:
    """Return what the requests of models took since the last call, by their names.

    A model that counts has a method `take_usage`, which returns numbers by their names; see
    `glamm_jax.grand.adapters.endpoint.usage`.
    """
    usage: dict[str, dict[str, float]] = {}
    for role in roles:
        counts = role.take_usage() if hasattr(role, "take_usage") else {}
        for name, number in counts.items():
            sums = usage.setdefault(role.name, {})
            sums[name] = sums.get(name, 0) + number
    return usage

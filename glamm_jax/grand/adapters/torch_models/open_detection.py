"""Open detectors: OWL-ViT and OWLv2, Grounding DINO and MM Grounding DINO.

OWL has an embedding for each class. Grounding DINO reads all classes as one text, "a cat. a dog.",
and gives each box a score for every token: that of a class is the mean of its tokens, so that a box
has a class that was asked for and never parts of two. Long lists are divided, since the text of
Grounding DINO has a limit.

Source: the documentation of transformers, `AutoModelForZeroShotObjectDetection`; arXiv:2303.05499.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    arrays_of,
    detections_of,
    image_size,
    in_range,
    is_finite,
    picture,
    share,
)
from glamm_jax.grand.record import Detection, Span
from glamm_jax.grand.roles import Results, RoleError, RoleImage

OWL_TYPES = ("owlv2", "owlvit")
DINO_TYPES = ("grounding-dino", "mm-grounding-dino")
# Of the released code's open detectors; and what Grounding DINO's authors recommend.
OWL_THRESHOLD, DINO_THRESHOLD = 0.05, 0.25
ROUND = 16  # classes of OWL and tokens of Grounding DINO, to which their number is rounded up
OWL_PROMPT, DINO_PROMPT = "a photo of a {}", "{}"


@dataclass(eq=False, kw_only=True)
class TransformersOpenDetector(TransformersAdapter):
    """Boxes of the classes that are asked for.

    Attributes:
        threshold: smallest score of a detection; None: 0.05 for OWL, 0.25 for Grounding DINO.
        prompt: what the model reads for a class, which stands for {}; None: "a photo of a {}" for
            OWL, "{}" for Grounding DINO. OWL reads 16 tokens of it.
        max_classes: that OWL compares with an image at once.
    """

    model: str = "google/owlv2-base-patch16"
    threshold: float | None = share(None)
    prompt: str | None = None
    max_classes: int = in_range(256, 1)

    role: ClassVar[str] = "an open detector"
    auto_class: ClassVar[str] = "AutoModelForZeroShotObjectDetection"
    only_types: ClassVar[tuple[str, ...]] = (*OWL_TYPES, *DINO_TYPES)

    def _check(self) -> None:
        if self.prompt is not None and self.prompt.count("{}") != 1:
            raise ConfigError(f"prompt = {self.prompt!r}: it has {{}} once, for the class")

    def _prepare(self) -> None:
        is_owl = self._config.model_type in OWL_TYPES
        self._is_owl = is_owl
        self._prompt = self.prompt or (OWL_PROMPT if is_owl else DINO_PROMPT)
        default = OWL_THRESHOLD if is_owl else DINO_THRESHOLD
        self._threshold = default if self.threshold is None else self.threshold

    def __call__(
        self, images: Sequence[RoleImage], classes: Sequence[Sequence[str]]
    ) -> Results[list[Detection]]:
        """Return the detections of each image, the highest score first.

        Args:
            images: the batch.
            classes: that each image is searched for.
        """
        return self.answer_usable(images, self._answer, classes)

    def _answer(
        self, images: Sequence[RoleImage], classes: Sequence[Sequence[str]]
    ) -> list[list[Detection] | RoleError]:
        jobs: list[tuple[int, Sequence[str], DinoText | None]] = []
        inputs: list[dict[str, torch.Tensor]] = []
        for place, (image, names) in enumerate(zip(images, classes, strict=True)):
            names = [name for name in dict.fromkeys(names) if name.strip()]
            arrays = arrays_of(
                self._processor.image_processor(images=picture(image), return_tensors="pt")
            )
            if self._is_owl:
                for at in range(0, len(names), self.max_classes):
                    part = names[at : at + self.max_classes]
                    jobs.append((place, part, None))
                    inputs.append(arrays | self._owl_text(part))
            else:
                phrases = [self._prompt.format(name) for name in names]
                for first, text in dino_texts(phrases, self._processor.tokenizer, self._config):
                    jobs.append((place, names[first : first + len(text.spans)], text))
                    inputs.append(arrays | text.arrays)
        results: list[list[Detection] | RoleError] = [[] for _ in images]
        for part, arrays in self.batches(inputs, len(images)):
            outputs = (self._owl if self._is_owl else self._dino)(arrays)
            for k, i in enumerate(part):
                place, labels, text = jobs[i]
                scores, boxes = outputs[0][k], outputs[1][k]
                # Without the rows that only make the shapes equal.
                scores = scores[:, : len(labels)] if text is None else span_scores(scores, text)
                self._collect(results, place, image_size(images[place]), labels, scores, boxes)
        for result in results:
            if isinstance(result, list):
                result.sort(key=lambda detection: -detection.score)
        return results

    def _collect(
        self,
        results: list[list[Detection] | RoleError],
        place: int,
        size: tuple[int, int],
        names: Sequence[str],
        scores: torch.Tensor,
        boxes: torch.Tensor,
    ) -> None:
        """Add the detections of one text to those of its image; each box has its best class."""
        result = results[place]
        if isinstance(result, RoleError):
            return
        if not is_finite(scores, boxes):
            results[place] = NOT_FINITE
            return
        best, labels = scores.max(dim=-1)
        selected = best >= self._threshold
        rows = zip(
            best[selected].tolist(),
            labels[selected].tolist(),
            boxes[selected].tolist(),
            strict=True,
        )
        # OWLv2 sees the image in the corner of a square.
        is_square = self._config.model_type == "owlv2"
        width, height = (max(size), max(size)) if is_square else (size[1], size[0])
        result += detections_of(
            [
                (corners_of(box, width, height), score, names[int(label)])
                for score, label, box in rows
            ],
            size,
        )

    def _owl_text(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the tokens of the classes, with a first axis of one item.

        The number of classes is rounded up, with classes without tokens, which the network ignores:
        so images with different numbers of classes can be in one batch.
        """
        tokens = self._processor.tokenizer(
            [self._prompt.format(name) for name in names],
            padding="max_length",
            truncation=True,
            max_length=self._config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        rows = -len(names) % ROUND
        ids = torch.nn.functional.pad(tokens["input_ids"], (0, 0, 0, rows))
        mask = torch.nn.functional.pad(tokens["attention_mask"], (0, 0, 0, rows))
        mask[len(names) :, 0] = 1  # without any token the attention would be undefined
        return {"input_ids": ids[None], "attention_mask": mask[None]}

    def _owl(self, arrays: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        text = {key: arrays.pop(key).flatten(0, 1) for key in ("input_ids", "attention_mask")}
        outputs = self.run(self._network, **arrays, **text)
        return outputs.logits.float().sigmoid(), outputs.pred_boxes.float()

    def _dino(self, arrays: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.run(self._network, **arrays)
        return outputs.logits.float().sigmoid(), outputs.pred_boxes.float()


@dataclass(frozen=True)
class DinoText:
    """A text of Grounding DINO.

    Attributes:
        arrays: its tokens, with a first axis of one item.
        spans: for each phrase the numbers of its tokens; empty if it has none.
    """

    arrays: dict[str, torch.Tensor]
    spans: tuple[tuple[int, ...], ...]


def dino_texts(phrases: Sequence[str], tokenizer: Any, config: Any) -> list[tuple[int, DinoText]]:
    """Return as few texts as hold all phrases, each with the number of its first phrase.

    Args:
        phrases: classes; dots in them become blanks, since a dot ends a class.
        tokenizer: of the model.
        config: of the model; has the limit of tokens.
    """
    cleaned = [" ".join(phrase.lower().replace(".", " ").split()) for phrase in phrases]
    limit = text_limit(tokenizer, config)
    texts: list[tuple[int, DinoText]] = []
    first, length = 0, 0
    for i, phrase in enumerate(cleaned):
        size = len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) + 1  # the dot
        if i > first and length + size + 2 > limit:
            texts.append((first, _joined(cleaned[first:i], tokenizer, limit)))
            first, length = i, 0
        length += size
    if len(cleaned) > first:
        texts.append((first, _joined(cleaned[first:], tokenizer, limit)))
    return texts


def text_limit(tokenizer: Any, config: Any) -> int:
    """Return the number of tokens that Grounding DINO reads, the first and the last included."""
    return min(config.max_text_len, tokenizer.model_max_length) // ROUND * ROUND


def _joined(phrases: Sequence[str], tokenizer: Any, limit: int) -> DinoText:
    text, spans = "", []
    for phrase in phrases:
        spans.append((len(text), len(text) + len(phrase)))
        text += f"{phrase}. "
    return dino_text(text.rstrip(), spans, tokenizer, limit)


def dino_text(text: str, spans: Sequence[Span], tokenizer: Any, limit: int) -> DinoText:
    """Return a text whose phrases are characters of it.

    Args:
        text: that the model reads; what exceeds the limit is cut.
        spans: of the phrases.
        tokenizer: of the model.
        limit: of tokens.
    """
    tokens = tokenizer(
        text,
        truncation=True,
        max_length=limit,
        padding=True,
        pad_to_multiple_of=ROUND,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    offsets = tokens.pop("offset_mapping")[0].tolist()
    numbers = tuple(
        tuple(k for k, (start, end) in enumerate(offsets) if start < last and first < end)
        for first, last in spans
    )
    return DinoText(arrays_of(tokens), numbers)


def span_scores(scores: torch.Tensor, text: DinoText) -> torch.Tensor:
    """Return the score of each phrase for each box: the mean of its tokens; -> (boxes, phrases).

    Args:
        scores: of the tokens for each box, (boxes, tokens).
        text: that they belong to.
    """
    columns = [
        scores[:, list(span)].mean(dim=1) if span else torch.zeros_like(scores[:, 0])
        for span in text.spans
    ]
    return torch.stack(columns, dim=1)


def corners_of(box: Sequence[float], width: float, height: float) -> tuple[float, ...]:
    """Return the corners in pixels of a box of centre, width and height as shares.

    Args:
        box: four numbers.
        width: of the image.
        height: of the image.
    """
    x, y, w, h = box
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height

"""Phrase grounders: Grounding DINO reads the caption once, Florence-2 each phrase.

Source: arXiv:2303.05499; arXiv:2311.06242.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers

from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    arrays_of,
    detections_of,
    image_size,
    in_range,
    is_finite,
    picture,
    share,
)
from glamm_jax.grand.adapters.torch_models.florence import (
    FLORENCE,
    PHRASE_GROUNDING,
    parse_regions,
)
from glamm_jax.grand.adapters.torch_models.generation import TokenSampling
from glamm_jax.grand.adapters.torch_models.image_text import ImageTextModel
from glamm_jax.grand.adapters.torch_models.open_detection import (
    DINO_THRESHOLD,
    DINO_TYPES,
    DinoText,
    corners_of,
    dino_text,
    dino_texts,
    span_scores,
    text_limit,
)
from glamm_jax.grand.record import Detection
from glamm_jax.grand.roles import PhraseQuery, Results, RoleError, RoleImage


@dataclass(eq=False, kw_only=True)
class TransformersPhraseGrounder(ImageTextModel):
    """Boxes of each phrase, the highest score first; those of Florence-2 have the score 1.

    Attributes:
        threshold: smallest score of a box of Grounding DINO.
        max_new_tokens: of an answer of Florence-2.
    """

    model: str = "IDEA-Research/grounding-dino-tiny"
    threshold: float = share(DINO_THRESHOLD)
    max_new_tokens: int = in_range(256, 1)

    role: ClassVar[str] = "a phrase grounder"
    only_types: ClassVar[tuple[str, ...]] = (*DINO_TYPES, FLORENCE)

    def _auto(self, config: Any) -> Any:
        if config.model_type == FLORENCE:
            return transformers.AutoModelForImageTextToText
        return transformers.AutoModelForZeroShotObjectDetection

    def __call__(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> Results[list[list[Detection]]]:
        """Return the boxes of each phrase.

        Args:
            images: the batch.
            phrases: of each image.
        """
        return self.answer_usable(images, self._answer, phrases)

    def _answer(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> list[Any]:
        if self._type != FLORENCE:
            return self._by_dino(images, phrases)
        return [
            self._by_florence(image, queries, len(images))
            for image, queries in zip(images, phrases, strict=True)
        ]

    def _by_florence(
        self, image: RoleImage, queries: Sequence[PhraseQuery], size: int
    ) -> list[list[Detection]]:
        results: list[list[Detection]] = [[] for _ in queries]
        places = [k for k, query in enumerate(queries) if query.phrase.strip()]
        inputs = [self.inputs(picture(image), PHRASE_GROUNDING + queries[k].phrase) for k in places]
        sampling = TokenSampling(self.max_new_tokens, 0.0, 1.0)
        answers = self.write(inputs, [0] * len(inputs), sampling, size)
        for place, answer in zip(places, answers, strict=True):
            results[place] = [
                Detection(region.box, 1.0, region.text or None)
                for region in parse_regions(answer, image_size(image))
            ]
        return results

    def _by_dino(
        self, images: Sequence[RoleImage], phrases: Sequence[Sequence[PhraseQuery]]
    ) -> list[list[list[Detection]] | RoleError]:
        results: list[Any] = [[[] for _ in queries] for queries in phrases]
        jobs: list[tuple[int, DinoText, list[int]]] = []
        inputs: list[dict[str, torch.Tensor]] = []
        for place, (image, queries) in enumerate(zip(images, phrases, strict=True)):
            pixels = arrays_of(
                self._processor.image_processor(images=picture(image), return_tensors="pt")
            )
            for text, numbers in self._texts(queries):
                jobs.append((place, text, numbers))
                inputs.append(pixels | text.arrays)
        for part, arrays in self.batches(inputs, len(images)):
            outputs = self.run(self._network, **arrays)
            for k, i in enumerate(part):
                place, text, numbers = jobs[i]
                boxes = outputs.pred_boxes[k].float()
                scores = span_scores(outputs.logits[k].float().sigmoid(), text)
                if not is_finite(scores, boxes):
                    results[place] = NOT_FINITE
                elif results[place] is not NOT_FINITE:
                    size = image_size(images[place])
                    for column, number in enumerate(numbers):
                        results[place][number] = self._boxes(scores[:, column], boxes, size)
        return results

    def _texts(self, queries: Sequence[PhraseQuery]) -> list[tuple[DinoText, list[int]]]:
        """Return the texts of all phrases, each with the numbers of its phrases.

        A phrase that is not in its caption, or in a part that the model does not read, is a text
        of its own.
        """
        tokenizer = self._tokenizer
        limit = text_limit(tokenizer, self._config)
        groups: dict[str, list[int]] = {}
        alone = []
        for k, query in enumerate(queries):
            if not query.phrase.strip():
                continue
            if query.span is None:
                alone.append(k)
            else:
                groups.setdefault(query.caption, []).append(k)
        texts = []
        for caption, members in groups.items():
            spans = [span for k in members if (span := queries[k].span) is not None]
            text = dino_text(caption, spans, tokenizer, limit)
            read = [i for i, span in enumerate(text.spans) if span]
            alone += [members[i] for i in range(len(members)) if i not in read]
            if read:
                spans = tuple(text.spans[i] for i in read)
                texts.append((DinoText(text.arrays, spans), [members[i] for i in read]))
        for k in sorted(alone):
            (_, text), *_ = dino_texts([queries[k].phrase], tokenizer, self._config)
            texts.append((text, [k]))
        return texts

    def _boxes(
        self, scores: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
    ) -> list[Detection]:
        selected = torch.nonzero(scores >= self.threshold)[:, 0].tolist()
        height, width = size
        return detections_of(
            [
                (corners_of(boxes[i].tolist(), width, height), float(scores[i]), None)
                for i in selected
            ],
            size,
        )

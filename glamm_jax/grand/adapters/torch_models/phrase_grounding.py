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
from glamm_jax.grand.adapters.torch_models.generation import Sampling
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
        ground = self._by_florence if self._type == FLORENCE else self._by_dino
        return [
            ground(image, queries, len(images))
            for image, queries in zip(images, phrases, strict=True)
        ]

    def _by_florence(
        self, image: RoleImage, queries: Sequence[PhraseQuery], size: int
    ) -> list[list[Detection]]:
        results: list[list[Detection]] = [[] for _ in queries]
        places = [k for k, query in enumerate(queries) if query.phrase.strip()]
        inputs = [self.inputs(picture(image), PHRASE_GROUNDING + queries[k].phrase) for k in places]
        sampling = Sampling(self.max_new_tokens, 0.0, 1.0)
        answers = self.write(inputs, [0] * len(inputs), sampling, size)
        for place, answer in zip(places, answers, strict=True):
            results[place] = [
                Detection(region.box, 1.0, region.text or None)
                for region in parse_regions(answer, image_size(image))
            ]
        return results

    def _by_dino(
        self, image: RoleImage, queries: Sequence[PhraseQuery], size: int
    ) -> list[list[Detection]] | RoleError:
        results: list[list[Detection]] = [[] for _ in queries]
        texts, places = self._texts(queries)
        pixels = arrays_of(
            self._processor.image_processor(images=picture(image), return_tensors="pt")
        )
        for part, arrays in self.batches([pixels | text.arrays for text in texts], size):
            outputs = self.run(self._network, **arrays)
            for k, i in enumerate(part):
                logits, boxes = outputs.logits[k].float().sigmoid(), outputs.pred_boxes[k].float()
                scores = span_scores(logits, texts[i])
                if not is_finite(scores, boxes):
                    return NOT_FINITE
                for column, place in enumerate(places[i]):
                    results[place] = self._boxes(scores[:, column], boxes, image_size(image))
        return results

    def _texts(self, queries: Sequence[PhraseQuery]) -> tuple[list[DinoText], list[list[int]]]:
        """Return the texts of all phrases, and the numbers of the phrases of each.

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
        texts, places = [], []
        for caption, members in groups.items():
            spans = [span for k in members if (span := queries[k].span) is not None]
            text = dino_text(caption, spans, tokenizer, limit)
            read = [i for i, span in enumerate(text.spans) if span]
            alone += [members[i] for i in range(len(members)) if i not in read]
            if read:
                texts.append(DinoText(text.arrays, tuple(text.spans[i] for i in read)))
                places.append([members[i] for i in read])
        for k in sorted(alone):
            (_, text), *_ = dino_texts([queries[k].phrase], tokenizer, self._config)
            texts.append(text)
            places.append([k])
        return texts, places

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

"""Similarity of images and texts by CLIP, SigLIP and their like: tags, labels of boxes.

CLIP was trained to choose one of several texts: its scores are probabilities over all of them.
SigLIP was trained to judge each pair alone: its scores are probabilities of each text.

Source: the documentation of transformers, `AutoModelForZeroShotImageClassification`;
arXiv:2103.00020, arXiv:2303.15343.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from glamm_jax.errors import ConfigError
from glamm_jax.files import read_regular_file
from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    arrays_of,
    clipped,
    crop,
    image_size,
    in_range,
    is_finite,
    picture,
    share,
)
from glamm_jax.grand.affordances import affordance_labels
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import LabelQuestion, Results, RoleImage, Tag

SIGLIP_TYPES = ("siglip", "siglip2")
CLIP_TYPES = ("altclip", "chinese_clip", "clip", "metaclip_2")
MAX_BYTES = 1 << 20  # of a vocabulary
TEXTS_PER_CALL = 256
SIGLIP_TOKENS = 64  # to which SigLIP's texts are always padded


@dataclass(eq=False, kw_only=True)
class ImageTextSimilarity(TransformersAdapter):
    """What the roles have in common.

    Attributes:
        prompt: what the model reads for a word, which stands for {}.
    """

    model: str = "google/siglip2-base-patch16-naflex"
    prompt: str = "{}"

    auto_class: ClassVar[str] = "AutoModelForZeroShotImageClassification"
    only_types: ClassVar[tuple[str, ...]] = (*SIGLIP_TYPES, *CLIP_TYPES)

    def _check(self) -> None:
        if self.prompt.count("{}") != 1:
            raise ConfigError(f"prompt = {self.prompt!r}: it has {{}} once, for the word")

    def _prepare(self) -> None:
        self._is_siglip = self._config.model_type in SIGLIP_TYPES

    def text_features(self, words: Sequence[str]) -> torch.Tensor:
        """Return the unit vector of each word."""
        tokenizer, features = self._processor.tokenizer, []
        length = self._config.text_config.max_position_embeddings
        if self._is_siglip:
            length = min(length, SIGLIP_TOKENS)
        for at in range(0, len(words), TEXTS_PER_CALL):
            tokens = tokenizer(
                [self.prompt.format(word) for word in words[at : at + TEXTS_PER_CALL]],
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            names = ("input_ids",) if self._is_siglip else ("input_ids", "attention_mask")
            arrays = {name: self.to_device(tokens[name]) for name in names}
            features.append(_unit(self.run(self._network.get_text_features, **arrays)))
        return torch.cat(features)

    def image_features(self, pictures: Sequence[Image.Image], size: int) -> torch.Tensor:
        """Return the unit vector of each picture.

        Args:
            pictures: of any sizes.
            size: of the batches.
        """
        inputs = [
            arrays_of(self._processor.image_processor(images=item, return_tensors="pt"))
            for item in pictures
        ]
        rows: list[Any] = [None] * len(pictures)
        for places, arrays in self.batches(inputs, size):
            features = _unit(self.run(self._network.get_image_features, **arrays))
            for place, row in zip(places, features, strict=True):
                rows[place] = row
        return torch.stack(rows)

    def logits(self, image: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return the scaled similarity of a picture and each of several texts, on the CPU.

        Args:
            image: its unit vector.
            texts: their unit vectors.
        """
        logits = texts.float() @ image.float() * self._network.logit_scale.float().exp()
        if self._is_siglip:
            logits = logits + self._network.logit_bias.float()
        return logits.cpu()

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities that the model was trained for."""
        return logits.sigmoid() if self._is_siglip else logits.softmax(0)


def _unit(output: Any) -> torch.Tensor:
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


@dataclass(eq=False, kw_only=True)
class VocabularySimilarity(ImageTextSimilarity):
    """What the roles with a fixed list of words have in common.

    Attributes:
        vocabulary: text file with a word in each line; empty: the labels of the affordances.
    """

    vocabulary: str = ""

    path_arguments: ClassVar[tuple[str, ...]] = ("model", "vocabulary")

    def _check(self) -> None:
        super()._check()
        self._words = read_vocabulary(self.vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        """Keep the words: the file may be on another machine."""
        return super().__getstate__() | {"_words": self._words}

    def _file_contents(self) -> dict[str, str]:
        return {"vocabulary": hashlib.sha256("\n".join(self._words).encode()).hexdigest()}

    def _prepare(self) -> None:
        super()._prepare()
        with torch.inference_mode():
            self._texts = self.text_features(self._words)


def read_vocabulary(name: str) -> tuple[str, ...]:
    """Return the words of a text file, without repetitions; of "" the labels of the affordances.

    Raises:
        ConfigError: the file cannot be read or has no words.
    """
    if not name:
        return affordance_labels()
    try:
        lines = read_regular_file(Path(name), MAX_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"vocabulary = {name!r}: cannot be read: {reason}") from error
    words = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise ConfigError(f"vocabulary = {name!r}: has no words")
    return words


@dataclass(eq=False, kw_only=True)
class TransformersTagger(VocabularySimilarity):
    """The words of a vocabulary that fit an image.

    Attributes:
        threshold: smallest score of a word.
        max_tags: largest number of words of an image, those with the highest scores.
    """

    prompt: str = "a photo of a {}"
    threshold: float = share(0.1)
    max_tags: int = in_range(30, 1)

    role: ClassVar[str] = "a tagger"

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Tag]]:
        """Return the words of each image, the highest score first."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        features = self.image_features([picture(image) for image in images], len(images))
        return [self._tags(self.logits(row, self._texts)) for row in features]

    def _tags(self, logits: torch.Tensor) -> Any:
        if not is_finite(logits):
            return NOT_FINITE
        scores = self.scores(logits).tolist()
        order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))[: self.max_tags]
        return [Tag(self._words[k], scores[k]) for k in order if scores[k] >= self.threshold]


@dataclass(eq=False, kw_only=True)
class TransformersRegionClassifier(VocabularySimilarity):
    """The word of a vocabulary that fits the content of a box best."""

    prompt: str = "a photo of a {}"

    role: ClassVar[str] = "a region classifier"

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[Detection]]:
        """Return a detection for each box.

        Args:
            images: the batch.
            boxes: of each image.
        """
        return self.answer_usable(images, self._answer, boxes)

    def _answer(self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]) -> list[Any]:
        results: list[Any] = []
        for image, group in zip(images, boxes, strict=True):
            detections: list[Detection] = []
            crops = [crop(image, box) for box in group]
            features = self.image_features(crops, len(images)) if crops else ()
            for box, row in zip(group, features, strict=True):
                logits = self.logits(row, self._texts)
                if not is_finite(logits):
                    break
                score, label = self.scores(logits).max(0)
                part = clipped(box, image_size(image))
                detections.append(Detection(part, score.item(), self._words[int(label)]))
            results.append(detections if len(detections) == len(group) else NOT_FINITE)
        return results


@dataclass(eq=False, kw_only=True)
class TransformersLabelChooser(ImageTextSimilarity):
    """The label that fits the content of a box best, with its probability among the labels."""

    role: ClassVar[str] = "a label chooser"

    def __call__(
        self, images: Sequence[RoleImage], questions: Sequence[Sequence[LabelQuestion]]
    ) -> Results[list[Tag]]:
        """Return the label for each question.

        Args:
            images: the batch.
            questions: about each image.
        """
        return self.answer_usable(images, self._answer, questions)

    def _answer(
        self, images: Sequence[RoleImage], questions: Sequence[Sequence[LabelQuestion]]
    ) -> list[Any]:
        results: list[Any] = []
        for image, group in zip(images, questions, strict=True):
            tags: list[Tag] = []
            crops = [crop(image, question.box) for question in group]
            features = self.image_features(crops, len(images)) if crops else ()
            for question, row in zip(group, features, strict=True):
                logits = self.logits(row, self.text_features(question.labels))
                if not is_finite(logits):
                    break
                score, label = logits.softmax(0).max(0)
                tags.append(Tag(question.labels[int(label)], score.item()))
            results.append(tags if len(tags) == len(group) else NOT_FINITE)
        return results

"""Models that read an image and write a text: captions, descriptions of regions, kinds of places.

BLIP-2, LLaVA, Qwen-VL, Florence-2 and every other model of `AutoModelForImageTextToText` with a
processor. A question has the form of the processor's chat template; without one that of BLIP-2 or
of LLaVA 1.5. The kind of place is not read from an answer: it is the option that the model finds
most probable.

Source: the documentation of transformers, `AutoModelForImageTextToText`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    arrays_of,
    crop,
    image_size,
    in_range,
    picture,
    share,
)
from glamm_jax.grand.adapters.torch_models.florence import (
    CAPTION,
    DENSE_CAPTIONS,
    FLORENCE,
    REGION_DESCRIPTION,
    location_text,
    parse_regions,
    plain_text,
)
from glamm_jax.grand.adapters.torch_models.generation import TokenSampling, generate
from glamm_jax.grand.record import Box, Detection
from glamm_jax.grand.roles import LANDMARKS, Landmark, Results, RoleError, RoleImage

BLIP_TYPES = ("blip-2", "instructblip")
PRETRAINED_BLIP = "blip-2"  # writes a caption if it is asked nothing
CAPTION_QUESTION = "Describe this image in one sentence."
REGION_QUESTION = "Describe the main object of this image in a short phrase."
PLACE_QUESTION = "What kind of place does this image show? Choose one of: {}."
NUM_SEEDS = 1 << 31
EMPTY = RoleError("output", "the answer is empty")


@dataclass(eq=False, kw_only=True)
class ImageTextModel(TransformersAdapter):
    """What the roles have in common."""

    auto_class: ClassVar[str] = "AutoModelForImageTextToText"

    def _prepare(self) -> None:
        tokenizer = getattr(self._processor, "tokenizer", None)
        if tokenizer is None or getattr(self._processor, "image_processor", None) is None:
            raise ConfigError(f"{self.model}: its processor is none for images and texts")
        self._tokenizer = tokenizer
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self._pad = next(token for token in (pad, end, 0) if token is not None)
        self._type = self._config.model_type

    def request_text(self, question: str) -> str:
        """Return a question in the form that the model was trained with.

        A question for Florence-2 is one of its tasks; BLIP-2 may get none.
        """
        if self._type == FLORENCE or not question:
            return question
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            return self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        if self._type in BLIP_TYPES:
            return f"Question: {question} Answer:"
        token = getattr(self._processor, "image_token", "<image>")
        return f"USER: {token}\n{question} ASSISTANT:"

    def inputs(self, image: Image.Image, text: str) -> dict[str, torch.Tensor]:
        """Return the arrays of an image and a text of `request_text`."""
        bos = self._tokenizer.bos_token
        has_bos = bool(bos) and text.startswith(str(bos))
        options = {"add_special_tokens": False} if has_bos else {}
        encoding = self._processor(images=image, text=text, return_tensors="pt", **options)
        return arrays_of(encoding)

    def write(
        self,
        inputs: Sequence[dict[str, torch.Tensor]],
        seeds: Sequence[int],
        sampling: TokenSampling,
        size: int,
    ) -> list[str]:
        """Return the answer to each item, with its special tokens.

        Args:
            inputs: arrays of the items.
            seeds: of the items.
            sampling: how tokens are chosen.
            size: of the batches.
        """
        texts = [""] * len(inputs)
        for places, arrays in self.batches(inputs, size):
            answers = self.run(
                generate,
                network=self._network,
                inputs=arrays,
                sampling=sampling,
                seeds=[seeds[i] for i in places],
                pad=self._pad,
            )
            for place, answer in zip(places, answers, strict=True):
                texts[place] = self._tokenizer.decode(
                    answer.tokens, skip_special_tokens=self._type != FLORENCE
                )
        return texts

    def text_of(self, answer: str) -> str:
        """Return the words of an answer."""
        return plain_text(answer) if self._type == FLORENCE else answer.strip()


@dataclass(eq=False, kw_only=True)
class WritingModel(ImageTextModel):
    """What the roles that write have in common.

    Attributes:
        max_new_tokens: of a text.
        temperature: of the sampling; 0: the most probable tokens.
        top_p: sampled are the most probable tokens that together have this probability.
    """

    max_new_tokens: int = in_range(64, 1)
    temperature: float = in_range(0.0, 0.0)
    top_p: float = share(1.0)

    @property
    def sampling(self) -> TokenSampling:
        return TokenSampling(self.max_new_tokens, self.temperature, self.top_p)


@dataclass(eq=False, kw_only=True)
class TransformersCaptioner(WritingModel):
    """One sentence about an image.

    Attributes:
        prompt: the question; None: none for BLIP-2, <CAPTION> for Florence-2, else one for a
            sentence.
    """

    model: str = "Salesforce/blip2-opt-2.7b"
    prompt: str | None = None

    role: ClassVar[str] = "a captioner"

    def __call__(self, images: Sequence[RoleImage]) -> Results[str]:
        """Return the caption of each image."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        question = self.prompt
        if question is None:
            defaults = {PRETRAINED_BLIP: "", FLORENCE: CAPTION}
            question = defaults.get(self._type, CAPTION_QUESTION)
        text = self.request_text(question)
        inputs = [self.inputs(picture(image), text) for image in images]
        seeds = [image.seed for image in images]
        answers = self.write(inputs, seeds, self.sampling, len(images))
        return [self.text_of(answer) or EMPTY for answer in answers]


@dataclass(eq=False, kw_only=True)
class TransformersRegionCaptioner(WritingModel):
    """A description of each box: Florence-2 sees the image, other models the content of the box.

    Attributes:
        prompt: the question about the content of a box; Florence-2 has its own.
    """

    model: str = "florence-community/Florence-2-base"
    prompt: str = REGION_QUESTION

    role: ClassVar[str] = "a region captioner"

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[str]]:
        """Return a description of each box.

        Args:
            images: the batch.
            boxes: of each image.
        """
        return self.answer_usable(images, self._answer, boxes)

    def _answer(self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]) -> list[Any]:
        results = []
        for image, group in zip(images, boxes, strict=True):
            inputs = [self._region_inputs(image, box) for box in group]
            seeds = [(image.seed + k) % NUM_SEEDS for k in range(len(group))]
            answers = self.write(inputs, seeds, self.sampling, len(images))
            results.append([self.text_of(answer) for answer in answers])
        return results

    def _region_inputs(self, image: RoleImage, box: Box) -> dict[str, torch.Tensor]:
        if self._type == FLORENCE:
            task = REGION_DESCRIPTION + location_text(box, image_size(image))
            return self.inputs(picture(image), task)
        return self.inputs(crop(image, box), self.request_text(self.prompt))


@dataclass(eq=False, kw_only=True)
class TransformersDenseCaptioner(WritingModel):
    """Boxes with descriptions by Florence-2, which gives them no scores: all are 1."""

    model: str = "florence-community/Florence-2-base"
    max_new_tokens: int = in_range(1024, 1)

    role: ClassVar[str] = "a dense captioner"
    only_types: ClassVar[tuple[str, ...]] = (FLORENCE,)

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        """Return the described boxes of each image."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        inputs = [self.inputs(picture(image), DENSE_CAPTIONS) for image in images]
        seeds = [image.seed for image in images]
        answers = self.write(inputs, seeds, self.sampling, len(images))
        return [
            [
                Detection(region.box, 1.0, description=region.text)
                for region in parse_regions(answer, image_size(image))
                if region.text
            ]
            for image, answer in zip(images, answers, strict=True)
        ]


@dataclass(eq=False, kw_only=True)
class TransformersLandmarkClassifier(ImageTextModel):
    """The most probable kind of place: first the category, then one of its fine categories.

    The probability of an option is the mean log-probability of its tokens after the question.

    Attributes:
        prompt: the question; the options stand for {}.
    """

    model: str = "llava-hf/llava-1.5-7b-hf"
    prompt: str = PLACE_QUESTION

    role: ClassVar[str] = "a landmark classifier"

    def _check(self) -> None:
        if self.prompt.count("{}") != 1:
            raise ConfigError(f"prompt = {self.prompt!r}: it has {{}} once, for the options")

    def _prepare(self) -> None:
        super()._prepare()
        if self._type == FLORENCE:
            raise ConfigError(f"{self.model}: Florence-2 answers no questions about an image")
        text_config = self._config.get_text_config(decoder=True)
        self._is_encoder_decoder = self._config.is_encoder_decoder or text_config.is_encoder_decoder

    def __call__(self, images: Sequence[RoleImage]) -> Results[Landmark]:
        """Return the kind of place of each image."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        results: list[Any] = self._choose(images, [tuple(LANDMARKS)] * len(images))
        places = [i for i, result in enumerate(results) if not isinstance(result, RoleError)]
        categories = [results[i] for i in places]
        chosen = self._choose(
            [images[i] for i in places], [LANDMARKS[category] for category in categories]
        )
        for place, category, fine in zip(places, categories, chosen, strict=True):
            results[place] = fine if isinstance(fine, RoleError) else Landmark(category, fine)
        return results

    def _choose(
        self, images: Sequence[RoleImage], options: Sequence[Sequence[str]]
    ) -> list[str | RoleError]:
        """Return the most probable option for each image; the first of equal ones."""
        jobs: list[tuple[int, int, list[int]]] = []
        inputs: list[dict[str, torch.Tensor]] = []
        for i, (image, group) in enumerate(zip(images, options, strict=True)):
            text = self.request_text(self.prompt.format(", ".join(group)))
            prompt = self.inputs(picture(image), text)
            for k, option in enumerate(group):
                tokens = self._option_tokens(option)
                jobs.append((i, k, tokens))
                inputs.append(self._with_answer(prompt, tokens))
        scores = [[0.0] * len(group) for group in options]
        for places, arrays in self.batches(inputs, max(len(images), 1)):
            answers = [jobs[place][2] for place in places]
            for place, score in zip(places, self._log_probabilities(arrays, answers), strict=True):
                i, k, _ = jobs[place]
                scores[i][k] = score
        return [
            group[max(range(len(group)), key=lambda k: row[k])]
            if all(math.isfinite(score) for score in row)
            else NOT_FINITE
            for group, row in zip(options, scores, strict=True)
        ]

    def _log_probabilities(
        self, arrays: dict[str, torch.Tensor], answers: Sequence[Sequence[int]]
    ) -> list[float]:
        """Return the mean log-probability of the tokens of each answer."""
        tokens = torch.tensor(answers, device=self._network.device)
        logits = self.run(self._network, **arrays).logits
        if not self._is_encoder_decoder:
            logits = logits[:, -tokens.shape[1] - 1 : -1]
        chosen = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return chosen.mean(dim=1).tolist()

    def _option_tokens(self, option: str) -> list[int]:
        tokens = self._tokenizer(option, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise ConfigError(f"{self.model}: the tokenizer has no tokens for {option!r}")
        return tokens

    def _with_answer(
        self, inputs: dict[str, torch.Tensor], answer: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Return the arrays of a question that is followed by an answer."""
        if self._is_encoder_decoder:
            return inputs | {"labels": torch.tensor([answer])}
        length, result = inputs["input_ids"].shape[1], dict(inputs)
        for name, value in inputs.items():
            if value.shape != (1, length):
                continue
            fill = 1 if name == "attention_mask" else 0
            result[name] = torch.cat([value, value.new_full((1, len(answer)), fill)], dim=1)
        result["input_ids"][0, length:] = torch.tensor(answer)
        return result

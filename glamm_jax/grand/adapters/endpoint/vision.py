"""Vision-language models behind endpoints: captions, kinds of places, descriptions, tags.

    [captioners.llava]
    class = "endpoint"
    url = "http://127.0.0.1:8000/v1"
    model = "llava-hf/llava-1.5-13b-hf"

`prompt` replaces the text of a request. Images are sent as PNG, in data URLs.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.endpoint.client import ChatCall
from glamm_jax.grand.adapters.endpoint.endpoint_role import EndpointRole
from glamm_jax.grand.record import Box
from glamm_jax.grand.roles import (
    LANDMARKS,
    Landmark,
    LLMAnswer,
    Pixels,
    Results,
    RoleError,
    RoleImage,
    Tag,
)
from glamm_jax.grand.stages import one_line

CAPTION_PROMPT = "Describe this image in one sentence."
REGION_PROMPT = "Describe the object in the centre of this image in a few words, with its colour."
TAG_PROMPT = (
    "List the objects and materials that this image shows, as single words or short names "
    "separated by commas. Write nothing else."
)
CHOICE_PROMPT = "Which of these does the image show: {choices}? Answer with one of them only."
MAX_TAG_WORDS = 4
MAX_TAGS = 50
CONTEXT = 0.2  # of a region's width and height that its crop has on each side
_SEPARATORS = re.compile(r"[,;\n]+")
_MARKS = re.compile(r"^\s*(?:[-*\u2022]|\d{1,3}[.)])\s*")


class EndpointVisionRole(EndpointRole):
    """A role that asks about images.

    Args:
        prompt: text of the request; "": that of this library.
        image_side: longest side of an image in pixels; larger ones are made smaller.
        options: as of `EndpointRole`.
    """

    default_prompt = CAPTION_PROMPT

    def __init__(self, prompt: str = "", image_side: int = 1024, **options: Any):
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt = {prompt!r} is not a text")
        if isinstance(image_side, bool) or not isinstance(image_side, int) or image_side < 1:
            raise ConfigError(f"image_side = {image_side!r} is not a whole number above 0")
        super().__init__(**options)
        self.prompt, self._side = prompt or self.default_prompt, image_side
        self._identity += [self.prompt, str(image_side)]

    def ask_each(
        self, images: Sequence[RoleImage], prompt: str, convert: Callable[[str], Any]
    ) -> list[Any]:
        """Return what a function makes of the answer about each image, or an error.

        Args:
            images: the batch.
            prompt: of the request.
            convert: may return a `RoleError`.
        """
        results: list[Any] = [RoleError("input", "the image has no pixels") for _ in images]
        places, calls = [], []
        for place, image in enumerate(images):
            if image.pixels.size:
                places.append(place)
                calls.append(image_call(image, prompt, self._side))
        for place, answer in zip(places, self._client.chat(calls), strict=True):
            results[place] = convert(answer.text) if isinstance(answer, LLMAnswer) else answer
        return results


class EndpointCaptioner(EndpointVisionRole):
    """One sentence about an image; arguments as of `EndpointVisionRole`."""

    def __call__(self, images: Sequence[RoleImage]) -> Results[str]:
        return self.ask_each(images, self.prompt, _text)


class EndpointTagger(EndpointVisionRole):
    """Tags of an image; arguments as of `EndpointVisionRole`. Their score is 1."""

    default_prompt = TAG_PROMPT

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Tag]]:
        return self.ask_each(images, self.prompt, read_tags)


class EndpointLandmarkClassifier(EndpointVisionRole):
    """The kind of place, by two questions with choices; arguments as of `EndpointVisionRole`.

    `{choices}` of the prompt stands for them.
    """

    default_prompt = CHOICE_PROMPT

    def __init__(self, **options: Any):
        super().__init__(**options)
        if self.prompt.count("{choices}") != 1:
            raise ConfigError("prompt needs the placeholder {choices} once")

    def __call__(self, images: Sequence[RoleImage]) -> Results[Landmark]:
        results = self._choose(images, tuple(LANDMARKS))
        for category, choices in LANDMARKS.items():
            places = [i for i, result in enumerate(results) if result == category]
            answers = self._choose([images[i] for i in places], choices)
            for place, fine in zip(places, answers, strict=True):
                is_error = isinstance(fine, RoleError)
                results[place] = fine if is_error else Landmark(category, fine)
        return results

    def _choose(self, images: Sequence[RoleImage], choices: tuple[str, ...]) -> list[Any]:
        prompt = self.prompt.replace("{choices}", ", ".join(choices))
        return self.ask_each(images, prompt, lambda text: choice_in(text, choices))


class EndpointRegionCaptioner(EndpointVisionRole):
    """A description of each box, of which a crop is sent; arguments as of `EndpointVisionRole`.

    A box without a pixel has the description "".
    """

    default_prompt = REGION_PROMPT

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[str]]:
        results: list[Any] = [[""] * len(group) for group in boxes]
        crops, places = [], []
        for i, (image, group) in enumerate(zip(images, boxes, strict=True)):
            if not image.pixels.size:
                results[i] = RoleError("input", "the image has no pixels")
                continue
            for k, box in enumerate(group):
                crop = crop_of(image.pixels, box)
                if crop.size:
                    crops.append(RoleImage(image.image_id, crop, image.seed))
                    places.append((i, k))
        for (i, k), text in zip(places, self.ask_each(crops, self.prompt, _text), strict=True):
            if isinstance(text, RoleError):
                results[i] = text
            elif not isinstance(results[i], RoleError):
                results[i][k] = text
        return results


def image_call(photograph: RoleImage, prompt: str, side: int) -> ChatCall:
    """Return the request about an image.

    Args:
        photograph: with pixels.
        prompt: what is asked.
        side: longest side of the image that is sent.
    """
    image = Image.fromarray(np.ascontiguousarray(photograph.pixels))
    if max(image.size) > side:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": prompt},
    ]
    return ChatCall(({"role": "user", "content": parts},), photograph.seed)


def crop_of(pixels: Pixels, box: Box) -> UInt8[np.ndarray, "a b 3"]:
    """Return the pixels of a box with some context; they may be none."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    dx, dy = CONTEXT * (x1 - x0), CONTEXT * (y1 - y0)
    rows = slice(max(0, int(y0 - dy)), max(0, min(height, int(np.ceil(y1 + dy)))))
    columns = slice(max(0, int(x0 - dx)), max(0, min(width, int(np.ceil(x1 + dx)))))
    return pixels[rows, columns]


def read_tags(text: str) -> list[Tag] | RoleError:
    """Return the tags of a list of names; sentences are no tags."""
    names: dict[str, None] = {}
    for part in _SEPARATORS.split(text):
        name = " ".join(_MARKS.sub("", part).strip(" .\"'`").lower().split())
        if name and len(name.split()) <= MAX_TAG_WORDS:
            names.setdefault(name)
    if not names:
        return RoleError("output", one_line(f"no list of names: {text!r}"))
    return [Tag(name, 1.0) for name in [*names][:MAX_TAGS]]


def choice_in(text: str, choices: Sequence[str]) -> str | RoleError:
    """Return the choice that an answer names, in any case; the first one if it names several."""
    lower = text.lower()
    places = {choice: lower.find(choice.lower()) for choice in choices}
    named = [choice for choice in choices if places[choice] >= 0]
    if not named:
        return RoleError("output", one_line(f"none of {', '.join(choices)}: {text!r}"))
    return min(named, key=places.__getitem__)


def _text(answer: str) -> str | RoleError:
    text = answer.strip()
    return text or RoleError("output", "the answer is empty")

"""Requests of /v1/chat/completions: OpenAI's fields, and `regions`.

A field that is unknown or not supported is refused by its name if it could change the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glamm_jax.inference.answer_rows import Question
from glamm_jax.json_files import show
from glamm_jax.serving.api_errors import APIError
from glamm_jax.serving.fields import boolean, boxes, integer, number
from glamm_jax.serving.image_urls import fetch_image
from glamm_jax.serving.request_images import decode_data_url, open_bounded
from glamm_jax.text.special_tokens import REGION

SUPPORTED = frozenset(
    [
        *("model", "messages", "regions", "stream", "stream_options", "n"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"),
    ]
)
# They do not change the answer.
IGNORED = frozenset(
    [
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "parallel_tool_calls"),
    ]
)
# Fields that may have the value that stands for their absence.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stop": ([],),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
MAX_MESSAGES = 256
MAX_TEMPERATURE = 10.0


@dataclass(frozen=True)
class ChatRequest:
    """A parsed request.

    Attributes:
        question: with an open image.
        stream: whether the answer is sent while it is generated.
        include_usage: whether a stream ends with the numbers of tokens.
    """

    question: Question
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class RequestLimits:
    """What a request may ask for.

    Attributes:
        model: name of the model, as clients call it.
        max_pixels: of an image.
        max_answer: longest answer in tokens.
        default_answer: the same, of a request that does not limit it.
        allow_urls: fetch images from http(s) URLs.
        max_image_bytes: of an image that is fetched.
    """

    model: str
    max_pixels: int
    max_answer: int
    default_answer: int
    allow_urls: bool = False
    max_image_bytes: int = 20 << 20


def parse_chat(body: Any, limits: RequestLimits) -> ChatRequest:
    """Check a request and decode its image.

    Raises:
        APIError: a field is wrong, missing or not supported; names it.
    """
    if not isinstance(body, dict):
        raise APIError(f"the body must be a JSON object, not {show(body)}")
    check_names(body)
    check_model(body, limits.model)
    if (count := integer(body, "n", 1, 1 << 31)) not in (None, 1):
        raise APIError(f"n must be 1: a request has one answer, not {count}", "n")
    stream = boolean(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise APIError(
            f"stream_options must be an object with include_usage, not {show(options)}",
            "stream_options",
        )
    turns, image = read_messages(body.get("messages"))
    limit = max_tokens(body, limits)
    temperature = number(body, "temperature", 0, MAX_TEMPERATURE) or 0.0
    top_p = number(body, "top_p", 0, 1)
    if top_p == 0:
        raise APIError("top_p must be above 0; 0.01 is nearly greedy", "top_p")
    seed = integer(body, "seed", 0, 2**32 - 1)
    regions = boxes(body.get("regions"), "regions")
    marks = sum(turn.count(REGION) for turn in turns[::2])
    if marks != len(regions):
        raise APIError(
            f"the texts have {marks} {REGION} and regions has {len(regions)} boxes: give one box "
            f"for each {REGION}, in order",
            "regions",
        )
    url, where = image
    if limits.allow_urls and url.startswith(("http://", "https://")):
        data = fetch_image(url, limits.max_image_bytes, where)
    else:
        data = decode_data_url(url, where)
    pixels = open_bounded(data, limits.max_pixels, where)
    question = Question(
        pixels,
        turns[-1],
        regions=regions,
        history=tuple(zip(turns[:-1:2], turns[1::2], strict=True)),
        max_tokens=limit,
        temperature=temperature,
        top_p=1.0 if top_p is None else top_p,
        # Without a seed, equal requests are to have different samples.
        seed=secrets.randbits(32) if seed is None else seed,
    )
    return ChatRequest(question, stream, boolean(options, "include_usage", "stream_options"))


def check_names(body: Mapping[str, Any]) -> None:
    """Refuse fields that are unknown, and those that are not supported unless they do nothing.

    Raises:
        APIError: names the field.
    """
    for name, value in body.items():
        if name in SUPPORTED or name in IGNORED or value is None:
            continue
        if name not in NEUTRAL:
            raise APIError(f"unknown field {show(name)}", name[:100], code="unknown_field")
        # `==` alone would take False for 0.
        if not any(type(value) is type(x) and value == x for x in NEUTRAL[name]) and not (
            isinstance(value, float) and value == 0 and 0 in NEUTRAL[name]
        ):
            raise APIError(f"{name} is not supported: leave it out", name, code="unsupported_field")


def check_model(body: Mapping[str, Any], name: str) -> None:
    """Refuse another model than the one that is served; a request may leave it out.

    Raises:
        APIError: with status 404.
    """
    model = body.get("model")
    if model is None or model == name:
        return
    if not isinstance(model, str):
        raise APIError(f"model must be a name, not {show(model)}", "model")
    raise APIError(
        f"there is no model {show(model)}; this server has {name!r}",
        "model",
        status=404,
        code="model_not_found",
    )


def max_tokens(body: Mapping[str, Any], limits: RequestLimits) -> int:
    """Return the longest answer, of either of two fields.

    Raises:
        APIError: it is out of the range, or the fields disagree.
    """
    names = ("max_completion_tokens", "max_tokens")
    values = {name: integer(body, name, 1, limits.max_answer) for name in names}
    numbers = {value for value in values.values() if value is not None}
    if len(numbers) > 1:
        raise APIError("max_tokens and max_completion_tokens differ: give one", "max_tokens")
    return numbers.pop() if numbers else min(limits.default_answer, limits.max_answer)


def read_messages(messages: Any) -> tuple[list[str], tuple[str, str]]:
    """Return the turns, the user's first, and the URL of the only image with its field.

    Raises:
        APIError: the messages do not alternate, or there is not exactly one image.
    """
    if not isinstance(messages, list) or not messages:
        raise APIError("messages must be a list with at least one message", "messages")
    if len(messages) > MAX_MESSAGES:
        raise APIError(f"at most {MAX_MESSAGES} messages are taken", "messages")
    turns: list[str] = []
    images: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = ("user", "assistant")[index % 2]
        if not isinstance(message, dict):
            raise APIError(f"{where} must be an object, not {show(message)}", where)
        if message.get("role") != role:
            raise APIError(
                f"{where}.role is {show(message.get('role'))}, but must be {role!r}: messages of "
                "user and assistant alternate, the user's first; there are no others, since the "
                "model was trained with one system line",
                f"{where}.role",
            )
        if role == "user":
            text, found = _user_content(message.get("content"), f"{where}.content")
            images += found
        else:
            text = _assistant_content(message, where)
        turns.append(text)
    if len(turns) % 2 == 0:
        raise APIError("the last message must be the user's", "messages")
    if len(images) != 1:
        raise APIError(
            f"the messages have {len(images)} images; the model answers questions about exactly "
            "one, so give one part of type image_url",
            "messages" if not images else images[1][1],
        )
    return turns, images[0]


def _user_content(content: Any, where: str) -> tuple[str, list[tuple[str, str]]]:
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list) or not content:
        raise APIError(f"{where} must be a text or a list of parts", where)
    texts: list[str] = []
    images: list[tuple[str, str]] = []
    for index, part in enumerate(content):
        name = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str):
                raise APIError(f"{name}.image_url.url must be a text", f"{name}.image_url.url")
            images.append((url, f"{name}.image_url.url"))
        else:
            raise APIError(
                f'{name} must be {{"type": "text", "text": ...}} or {{"type": "image_url", '
                f'"image_url": {{"url": ...}}}}, not {show(part)}',
                name,
            )
    return "\n".join(texts), images


def _assistant_content(message: Mapping[str, Any], where: str) -> str:
    """The answer as the model wrote it, if the client has kept it; else its clean text."""
    for name in ("raw", "content"):
        value = message.get(name)
        if isinstance(value, list) and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in value
        ):
            value = "".join(part["text"] for part in value)
        if isinstance(value, str):
            return value
        if value is not None:
            raise APIError(f"{where}.{name} must be a text", f"{where}.{name}")
    raise APIError(f"{where} has neither content nor raw", f"{where}.content")

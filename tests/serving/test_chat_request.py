"""Requests: what is understood, and the field that each refusal names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.serving.api_errors import APIError, api_error
from glamm_jax.serving.chat_request import RequestLimits, parse_chat
from glamm_jax.serving.segmentations import parse_segmentation, segmentation_prompt
from tests.serving.conftest import data_url, png

LIMITS = RequestLimits("tiny", max_pixels=100 * 100, max_answer=64, default_answer=32)
IMAGE = {"type": "image_url", "image_url": {"url": data_url(png())}}


def request(text: str = "What is it?", **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}, IMAGE]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]} | fields


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": [*parts]}]


def test_all_fields_are_understood() -> None:
    messages = [
        *request("Where is <bbox> [SEG]?")["messages"],
        {"role": "assistant", "content": "It is a star.", "raw": "It is <p> a star </p> [SEG] ."},
        {"role": "user", "content": "And <bbox>?"},
    ]
    parsed = parse_chat(
        request(
            messages=messages,
            regions=[[1, 2, 30, 40], [0.5, 0, 9, 9]],
            max_completion_tokens=7,
            temperature=0.5,
            top_p=0.9,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
            n=1,
            stop=None,
            user="me",
            metadata={"a": "b"},
            presence_penalty=0.0,
            response_format={"type": "text"},
        ),
        LIMITS,
    )
    question = parsed.question
    assert question.prompt == "And <bbox>?"
    assert question.history == (("Where is <bbox> [SEG]?", "It is <p> a star </p> [SEG] ."),)
    assert (question.max_tokens, question.seed, question.top_p) == (7, 3, 0.9)
    assert question.image.shape == (64, 64, 3)  # pyright: ignore
    assert parsed.stream and parsed.include_usage
    without_raw = [messages[0], {"role": "assistant", "content": "It is a star."}, messages[2]]
    parsed = parse_chat(request(messages=without_raw, regions=[[1, 1, 9, 9]] * 2), LIMITS)
    assert parsed.question.history[0][1] == "It is a star."


def test_defaults_are_greedy_and_sampling_without_a_seed_varies() -> None:
    question = parse_chat(request(), LIMITS).question
    assert (question.temperature, question.max_tokens) == (0.0, 32)
    seeds = {parse_chat(request(temperature=1), LIMITS).question.seed for _ in range(4)}
    assert len(seeds) > 1


BAD = [
    (request(n=2), "n", "n must be 1"),
    (request(n="1"), "n", "must be an integer"),
    (request(stop=["x"]), "stop", "stop is not supported"),
    (request(logprobs=True), "logprobs", "not supported"),
    (request(tools=[{}]), "tools", "not supported"),
    (request(response_format={"type": "json_object"}), "response_format", "not supported"),
    (request(presence_penalty=0.5), "presence_penalty", "not supported"),
    (request(colour="red"), "colour", "unknown field 'colour'"),
    (request(temperature=-1), "temperature", "from 0 to 10, not -1"),
    (request(temperature=float("nan")), "temperature", "from 0 to 10"),
    (request(temperature=True), "temperature", "must be a number"),
    (request(top_p=0), "top_p", "above 0"),
    (request(top_p="a"), "top_p", "must be a number"),
    (request(seed=-1), "seed", "from 0 to 4294967295"),
    (request(seed=1.5), "seed", "must be an integer"),
    (request(max_tokens=0), "max_tokens", "from 1 to 64, not 0"),
    (request(max_tokens=65), "max_tokens", "from 1 to 64, not 65"),
    (request(max_tokens=3, max_completion_tokens=4), "max_tokens", "differ"),
    (request(stream="yes"), "stream", "must be true or false"),
    (request(stream_options=[1]), "stream_options", "must be an object"),
    (request(stream_options={"include_usage": 1}), "stream_options", "true or false"),
    (request(model=3), "model", "must be a name"),
    (request(model="gpt-4o"), "model", "there is no model 'gpt-4o'"),
    (request(regions=[[1, 2, 3, 4]]), "regions", "0 <bbox> and regions has 1 boxes"),
    (request("Is <bbox>?"), "regions", "1 <bbox> and regions has 0 boxes"),
    (request("<bbox>", regions=[[1, 2, 3]]), "regions[0]", "four numbers"),
    (request("<bbox>", regions=[[1, 2, 3, "4"]]), "regions[0]", "four numbers"),
    (request("<bbox>", regions=[[1, 2, 3, float("inf")]]), "regions[0]", "four numbers"),
    (request("<bbox>", regions={"a": 1}), "regions", "list of boxes"),
    (request(regions=[[0, 0, 1, 1]] * 300), "regions", "at most 256"),
    (request(messages=None), "messages", "at least one message"),
    (request(messages=[]), "messages", "at least one message"),
    (request(messages=["hi"]), "messages[0]", "must be an object"),
    (request(messages=[{"role": "system", "content": "x"}]), "messages[0].role", "'system'"),
    (request(messages=[{"role": "user"}]), "messages[0].content", "a text or a list of parts"),
    (request(messages=user({"type": "text"})), "messages[0].content[0]", "must be"),
    (request(messages=user({"type": "input_audio"})), "messages[0].content[0]", "must be"),
    (request(messages=user("hi")), "messages[0].content[0]", "must be"),
    (request(messages=[{"role": "user", "content": "hi"}]), "messages", "0 images"),
    (request(messages=user(IMAGE, IMAGE)), "messages[0].content[1].image_url.url", "2 images"),
    (
        request(messages=user({"type": "image_url", "image_url": {}})),
        "messages[0].content[0].image_url.url",
        "must be a text",
    ),
    (
        request(messages=[*user(IMAGE), {"role": "assistant", "content": "x"}]),
        "messages",
        "the last message must be the user's",
    ),
    (
        request(messages=[*user(IMAGE), {"role": "assistant"}, *user({})]),
        "messages[1].content",
        "neither content nor raw",
    ),
    (
        request(messages=[*user(IMAGE), {"role": "assistant", "raw": 3}]),
        "messages[1].raw",
        "must be a text",
    ),
    ([1], None, "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD)
def test_a_refusal_names_the_field(body: Any, param: str | None, message: str) -> None:
    with pytest.raises(APIError) as refused:
        parse_chat(body, LIMITS)
    assert message in str(refused.value)
    assert refused.value.param == param
    assert 400 <= refused.value.status < 500


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/a.png", "http(s) URLs and paths are not read"),
        ("https://example.com/a.png", "http(s) URLs and paths are not read"),
        ("/etc/passwd", "not a base64 data URL"),
        ("file:///etc/passwd", "not a base64 data URL"),
        ("data:image/png,abc", "not a base64 data URL"),
        ("data:image/png;base64,a*b", "not base64"),
        ("data:image/png;base64,", "not a readable image"),
        (data_url(b"no image"), "not a readable image"),
        (data_url(png()[:-40]), "not a readable image"),
        (data_url(png(size=(101, 100))), "101 x 100 pixels; this server takes at most 10000"),
        ("", "not a base64 data URL"),
    ],
)
def test_images_are_bounded_data_urls(url: str, message: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(APIError) as refused:
        parse_chat(request(messages=user(part)), LIMITS)
    assert message in str(refused.value)
    assert refused.value.param == "messages[0].content[0].image_url.url"


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["user", "assistant", "text", "image_url", data_url(png())]),
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "image_url", "url", "raw", "x"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
NAMES = (
    *("model", "messages", "regions", "stream", "stream_options", "n", "stop", "max_tokens"),
    *("temperature", "top_p", "seed", "logit_bias", "tools", "modalities", "response_format"),
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.booleans())
def test_any_value_is_understood_or_refused(fields: dict[str, Any], is_complete: bool) -> None:
    body = request(**fields) if is_complete else fields
    status = 400
    try:
        parse_chat(body, LIMITS)
    except Exception as error:
        status = api_error(error).status
    assert 400 <= status < 500


FORM = {"image": png(), "prompt": "the red star"}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": "a"}, "image", "must be a file"),
        ({"image": "text"}, "image", "must be a file"),
        (FORM | {"prompt": b"a"}, "image", "only image may be a file"),
        (FORM | {"colour": "red"}, "colour", "unknown field"),
        (FORM | {"mask_format": "svg"}, "mask_format", "png or rle"),
        (FORM | {"boxes": "[1"}, "boxes", "boxes"),
        (FORM | {"boxes": "[[1, 2, 3]]"}, "boxes[0]", "four numbers"),
        (FORM | {"boxes": "[[1, 2, 3, 4]]", "box_labels": "[0]"}, "box_labels", "a 1 for each"),
        (FORM | {"model": "other"}, "model", "no model 'other'"),
        (FORM | {"prompt": " "}, "prompt", "a prompt, a box, or both"),
        (FORM | {"prompt": "<bbox>"}, "boxes", "1 <bbox> for 0 boxes"),
        (FORM | {"prompt": "<p> it </p> [SEG]", "boxes": "[[1, 2, 3, 4]]"}, "prompt", "once"),
        (FORM | {"image": b"GIF89a"}, "image", "not a readable image"),
    ],
)
def test_a_refusal_of_a_form_names_the_field(
    fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(APIError) as refused:
        parse_segmentation(fields, LIMITS)
    assert message in str(refused.value)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "num_boxes", "question"),
    [
        ("red star", 0, "Please segment the red star in the image."),
        ("", 1, "Please segment the region1 <bbox> in the image."),
        ("star", 2, "Please segment the star region1 <bbox>,region2 <bbox>, in the image."),
        ("Where is <p> it </p> [SEG]?", 0, "Where is <p> it </p> [SEG]?"),
    ],
)
def test_a_concept_becomes_a_question(prompt: str, num_boxes: int, question: str) -> None:
    assert segmentation_prompt(prompt, num_boxes) == question

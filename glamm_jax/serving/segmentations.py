"""Requests and responses of /v1/images/segmentations: a form, and instances with masks.

The shape is that of vLLM-Omni: the form fields image, prompt, boxes, box_labels and mask_format;
the response has one entry for each mask, with `mask`, `box` and `score`.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from glamm_jax.data import rle
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.answer_rows import Question
from glamm_jax.json_files import JSONError, parse_json, show
from glamm_jax.serving.api_errors import APIError
from glamm_jax.serving.chat_request import RequestLimits, check_model
from glamm_jax.serving.fields import boxes
from glamm_jax.serving.request_images import open_bounded
from glamm_jax.text.questions import REFERRING_INSTRUCTION, name_regions
from glamm_jax.text.special_tokens import PHRASE_START, REGION, SEG

FIELDS = ("image", "prompt", "boxes", "box_labels", "mask_format", "model")
MAX_FIELD_BYTES = 1 << 16  # of a field that is no file
MaskFormat = Literal["png", "rle"]


@dataclass(frozen=True)
class SegmentationRequest:
    """A parsed request: the question that has the masks as its answer, and their format."""

    question: Question
    mask_format: MaskFormat


async def read_form(body: bytes, headers: Headers) -> dict[str, str | bytes]:
    """Return the fields of a multipart form; a file is bytes.

    Args:
        body: of the request, of bounded size.
        headers: of the request.

    Raises:
        APIError: it is no such form.
    """
    kind = headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise APIError(
            "the body must be multipart/form-data with the fields image and prompt",
            status=415,
            code="unsupported_media_type",
        )

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(
            headers, stream(), max_files=1, max_fields=len(FIELDS), max_part_size=MAX_FIELD_BYTES
        )
        form = await parser.parse()
    # The parser of the form raises its own errors, and ValueError or KeyError for broken headers.
    except (MultiPartException, ValueError, KeyError) as error:
        message = getattr(error, "message", str(error))
        raise APIError(f"the form cannot be read: {message}", code="invalid_form") from error
    fields: dict[str, str | bytes] = {}
    try:
        for name, value in form.multi_items():
            if name in fields:
                raise APIError(f"the form has two fields {show(name)}", name[:100])
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
    finally:
        await form.close()
    return fields


def parse_segmentation(
    fields: Mapping[str, str | bytes], limits: RequestLimits
) -> SegmentationRequest:
    """Check the fields of a form and decode its image.

    Raises:
        APIError: a field is wrong, missing or not supported; names it.
    """
    for name in fields:
        if name not in FIELDS:
            raise APIError(f"unknown field {show(name)}", name[:100], code="unknown_field")
    image = fields.get("image")
    if not isinstance(image, bytes):
        raise APIError("image must be a file", "image")
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    if len(texts) != len(fields) - 1:
        raise APIError("only image may be a file", "image")
    check_model(texts, limits.model)
    mask_format = texts.get("mask_format", "png")
    if mask_format not in ("png", "rle"):
        raise APIError(f"mask_format must be png or rle, not {show(mask_format)}", "mask_format")
    regions = boxes(_json_field(texts, "boxes"), "boxes")
    labels = _json_field(texts, "box_labels")
    if labels is not None and labels != [1] * len(regions):
        raise APIError(
            "box_labels must have a 1 for each box: objects that must not match cannot be given to "
            "this model",
            "box_labels",
        )
    text = segmentation_prompt(texts.get("prompt", "").strip(), len(regions))
    question = Question(
        open_bounded(image, limits.max_pixels, "image"),
        text,
        regions=regions,
        max_tokens=min(limits.default_answer, limits.max_answer),
    )
    return SegmentationRequest(question, mask_format)


def segmentation_prompt(prompt: str, num_boxes: int) -> str:
    """Return the question for a concept and boxes.

    A prompt with a [SEG] or a <p> is a question already, and is used as it is.

    Raises:
        APIError: there is neither a prompt nor a box, or the numbers of boxes do not agree.
    """
    marks = prompt.count(REGION)
    if marks not in (0, num_boxes):
        raise APIError(f"the prompt has {marks} {REGION} for {num_boxes} boxes", "boxes")
    if not prompt and not num_boxes:
        raise APIError("give a prompt, a box, or both", "prompt")
    if SEG in prompt or PHRASE_START in prompt:
        if num_boxes != marks:
            raise APIError(f"write {REGION} in the prompt once for each box", "prompt")
        return prompt
    regions = name_regions(num_boxes) if num_boxes > marks else ""
    return REFERRING_INSTRUCTION.format(name=" ".join(filter(None, (prompt, regions))))


def segmentation_response(
    answer: Answer, mask_format: MaskFormat, limits: RequestLimits
) -> dict[str, Any]:
    """Return the masks of question and answer as instances.

    Args:
        answer: to the question of the request.
        mask_format: of the masks.
        limits: gives the name of the model.
    """
    instances = [
        _instance(grounding, mask_format)
        for grounding in (*answer.prompt_groundings, *answer.groundings)
        if grounding.runs is not None
    ]
    height, width = answer.image.shape[:2]
    return {
        "created": int(time.time()),
        "model": limits.model,
        "size": [height, width],
        "text": answer.text,
        "data": instances,
    }


def _instance(grounding: Grounding, mask_format: MaskFormat) -> dict[str, Any]:
    fields = grounding.to_json()
    return {
        "mask": fields["mask"] if mask_format == "rle" else _png(rle.decode(fields["mask"])),
        "box": fields["box_xyxy_pixel"],
        "score": grounding.score,
        "phrase": grounding.phrase,
    }


def _png(mask: Bool[np.ndarray, "h w"]) -> str:
    """The mask as a grayscale PNG, 255 inside, in base64."""
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _json_field(texts: Mapping[str, str], name: str) -> Any:
    if not texts.get(name, "").strip():
        return None
    try:
        return parse_json(texts[name], name)
    except JSONError as error:
        raise APIError(str(error), name, code="invalid_json") from error

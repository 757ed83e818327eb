"""Responses of /v1/chat/completions: OpenAI's objects, with masks."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.serving.jobs import AnswerJob

FINISH_REASONS = {"end": "stop", "length": "length", "stopped": "stop"}


@dataclass(frozen=True)
class ResponseHead:
    """What all objects of one response have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return a piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, job: AnswerJob) -> dict[str, Any]:
        """Return the piece of a stream that has the numbers of tokens."""
        return self._object("chat.completion.chunk", []) | {"usage": usage(job)}

    def completion(self, job: AnswerJob, answer: Answer) -> dict[str, Any]:
        """Return the response that is not streamed."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message | answer_fields(answer),
            "logprobs": None,
            "finish_reason": FINISH_REASONS[answer.finish],
        }
        return self._object("chat.completion", [choice]) | {"usage": usage(job)}

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def answer_fields(answer: Answer) -> dict[str, Any]:
    """Return what an answer has besides its text; ready for JSON."""
    return {
        "groundings": [grounding_object(x, "answer") for x in answer.groundings],
        "prompt_groundings": [grounding_object(x, "prompt") for x in answer.prompt_groundings],
        "problems": list(answer.problems),
        "raw": answer.raw,
    }


def grounding_object(grounding: Grounding, origin: str) -> dict[str, Any]:
    """Return a phrase with its mask as COCO run lengths and its box [x, y, width, height]."""
    fields = grounding.to_json()
    box = fields["box_xyxy_pixel"]
    return {
        "phrase": grounding.phrase,
        "start": grounding.start,
        "end": grounding.end,
        "score": grounding.score,
        "segmentation": fields["mask"],
        "bbox": None if box is None else [*box[:2], box[2] - box[0], box[3] - box[1]],
        "area": fields["area"],
        "origin": origin,
    }


def usage(job: AnswerJob) -> dict[str, int]:
    """Return the numbers of tokens; those of the prompt include the patches of the image."""
    prompt, answer = job.row.prompt.length, len(job.row.ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


END_OF_STREAM = b"data: [DONE]\n\n"

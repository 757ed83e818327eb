"""A review desk as the page uses it, without HTTP."""

from __future__ import annotations

from typing import Any

from glamm_jax.grand.review.decisions import DecisionLog
from glamm_jax.grand.review.queue import ReviewQueue
from glamm_jax.grand.review.reviewing import ReviewDesk
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.json_files import JSONObject


def open_desk(run: AnnotationRun, segmenter: Any = None) -> ReviewDesk:
    """A desk whose order is complete."""
    queue = ReviewQueue(run, DecisionLog(run.path))
    queue.compute()
    return ReviewDesk(run, queue, segmenter)


def content(data: dict[str, Any]) -> dict[str, Any]:
    """What a page sends on which nothing was changed."""
    names = ("id", "box", "label", "attributes", "mask_source")
    objects = [
        {**{name: item[name] for name in names}, "mask": item["id"] if item["outline"] else None}
        for item in data["objects"]
    ]

    def caption(value: dict[str, Any]) -> dict[str, Any]:
        return {"caption": value["caption"], "phrases": value["phrases"]}

    return {
        "objects": objects,
        "dense_caption": caption(data["dense_caption"]),
        "short_captions": [caption(item) for item in data["short_captions"]],
    }


def decide(
    desk: ReviewDesk,
    data: dict[str, Any],
    action: str,
    author: str = "ann",
    value: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Send a decision about an image as it was shown."""
    fields = {name: data[name] for name in ("image", "base", "record")}
    fields |= {"author": author, "action": action}
    if value is not None:
        fields["content"] = value
    return desk.decide(JSONObject(fields, "the request"))

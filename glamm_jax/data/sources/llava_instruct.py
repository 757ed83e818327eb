"""LLaVA-Instruct: conversations about pictures of COCO 2017.

    llava_dataset/llava_instruct_{150k,80k}.json, coco_2017/train2017

The mark of the image, <image>, is taken out of the question that carries it, wherever it stands
there: the model is shown the image in front of the first question.
Source: dataset/caption_datasets/LLavaInstruct_vqa_ds.py. Differs: all conversations about a picture
are one record; where one breaks off or loses its order, what stands before is kept (the original
fails); a mark in a later turn is no second image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.grouped_by_image import GroupedSource, files_of
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    DefectLog,
    Fields,
    as_fields,
    as_list,
    as_text,
    quoted,
)
from glamm_jax.text.special_tokens import IMAGE_PLACEHOLDER

EXTRA_IMAGE = "image mark in a later turn"
NO_QUESTION = "answer without a question"
UNANSWERED = "question without an answer"
WRONG_SPEAKER = "turn of the wrong speaker"

SPEAKERS = ("human", "gpt")


class LLaVAInstruct150k(GroupedSource):
    """Conversations, descriptions and reasoning, written by a language model."""

    name = "llava_instruct_150k"
    files = files_of(("train",), "llava_dataset/llava_instruct_150k.json")
    folders = ("coco_2017/train2017",)

    def _image_fields(self, entry: Any) -> Any:
        return entry | {"file_name": entry.get("image")} if isinstance(entry, dict) else None

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        listed = as_list(entry.get("conversations"), draft.notes, f"{where}, conversations")
        turns = _turns(listed, draft.notes, where)
        if turns:
            draft.annotate_turns(turns)


class LLaVAInstruct80k(LLaVAInstruct150k):
    """A part of it."""

    name = "llava_instruct_80k"
    files = files_of(("train",), "llava_dataset/llava_instruct_80k.json")


def _turns(listed: Sequence[Any], notes: DefectLog, where: str) -> list[str]:
    """Turns that alternate, the user's first, the assistant's last, as far as they are sound."""
    turns: list[str] = []
    for i, item in enumerate(listed):
        name = f"{where}, turn {i}"
        fields = as_fields(item, notes, name)
        speaker = fields.get("from")
        if i == 0 and speaker == SPEAKERS[1]:
            notes.add(NO_QUESTION, name)
            continue
        if speaker != SPEAKERS[len(turns) % 2]:
            notes.add(WRONG_SPEAKER, f"{name}: {quoted(speaker)}")
            break
        text = _text(fields.get("value"), notes, name, first=not turns)
        if not text:
            break
        turns.append(text)
    if len(turns) % 2:
        notes.add(UNANSWERED, f"{where}: {quoted(turns.pop())}")
    return turns


def _text(value: Any, notes: DefectLog, where: str, *, first: bool) -> str:
    """What is said in a turn without the image's mark."""
    if isinstance(value, str) and IMAGE_PLACEHOLDER in value:
        value = value.replace(IMAGE_PLACEHOLDER, "").strip()
        if not first:
            notes.add(EXTRA_IMAGE, where)
    return as_text(value, notes, where)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    each.name: each for each in (LLaVAInstruct150k, LLaVAInstruct80k)
}

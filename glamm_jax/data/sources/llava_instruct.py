"""LLaVA-Instruct: conversations about images of COCO 2017.

    llava_dataset/llava_instruct_{150k,80k}.json, coco_2017/train2017

The image token, <image>, is removed from the question that contains it, wherever it is there: the
model always sees the image before the first question.
Source: dataset/caption_datasets/LLavaInstruct_vqa_ds.py. Differs: all conversations about an image
are one record. Where a conversation breaks off or its turns do not alternate, the turns before that
are kept (the original fails). An image token in a later turn is not a second image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.conversation_turns import read_turns
from glamm_jax.data.sources.grouped_by_image import GroupedSource, files_by_split
from glamm_jax.data.sources.json_files import Fields, as_list
from glamm_jax.data.sources.record_builder import RecordBuilder


class LLaVAInstruct150k(GroupedSource):
    """Conversations, descriptions and reasoning, written by a language model."""

    name = "llava_instruct_150k"
    files = files_by_split(("train",), "llava_dataset/llava_instruct_150k.json")
    image_folders = ("coco_2017/train2017",)

    def _with_file_name(self, entry: Any) -> Any:
        return entry | {"file_name": entry.get("image")} if isinstance(entry, dict) else None

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        items = as_list(entry.get("conversations"), builder.log, f"{where}, conversations")
        turns = read_turns(items, builder.log, where)
        if turns:
            builder.add_conversation(turns, where)


class LLaVAInstruct80k(LLaVAInstruct150k):
    """A subset of LLaVA-Instruct 150k."""

    name = "llava_instruct_80k"
    files = files_by_split(("train",), "llava_dataset/llava_instruct_80k.json")


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    source.name: source for source in (LLaVAInstruct150k, LLaVAInstruct80k)
}

"""COCO's captions: what people said about whole pictures.

    coco_2017/annotations/captions_{train,val}2017.json, coco_2017/{train,val}2017

Source: dataset/caption_datasets/COCO_Caption_ds.py. Differs: all captions of a picture are one
record; the original draws one of them whatever index it is asked for (trap 41).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_of
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import Fields, as_text


class COCOCaptions(CocoSource):
    """Some five captions a picture."""

    name = "coco_captions"
    files = files_of(("train", "val"), "coco_2017/annotations/captions_{}2017.json")
    folders = ("coco_2017/{}2017",)

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        for annotation, name in self._said(entry):
            text = as_text(annotation.get("caption"), draft.notes, name).strip()
            if text:
                draft.annotate("caption", text)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {COCOCaptions.name: COCOCaptions}

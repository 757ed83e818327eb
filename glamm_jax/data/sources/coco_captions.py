"""COCO captions: texts about complete images.

    coco_2017/annotations/captions_{train,val}2017.json, coco_2017/{train,val}2017

Source: dataset/caption_datasets/COCO_Caption_ds.py. Differs: all captions of an image are one
record. The original ignores the index of an item and samples one of them (quirk 41).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_by_split
from glamm_jax.data.sources.json_files import Fields, as_text
from glamm_jax.data.sources.record_builder import RecordBuilder


class COCOCaptions(CocoSource):
    """About five captions for each image."""

    name = "coco_captions"
    files = files_by_split(("train", "val"), "coco_2017/annotations/captions_{}2017.json")
    image_folders = ("coco_2017/{}2017",)

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        for annotation, place in self._annotations(entry):
            text = as_text(annotation.get("caption"), builder.log, place).strip()
            if text:
                builder.add_annotation("caption", text)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {COCOCaptions.name: COCOCaptions}

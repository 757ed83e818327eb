"""RefCOCOg: one caption of an image that contains the expressions of its objects.

    Refer_Segm/refcocog/{instances.json, refs(umd).p}
    coco_2014/annotations/captions_train2014.json       captions for context, if they are there

Of each object the first expression is used. The file lists {id: {img_file_name, caption, refs:
[{sentence, bbox, segmentation}]}}; the segmentation is that of RefCOCOg, unchanged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glamm_jax.data.sources.json_files import Fields
from glamm_jax.data.sources.refcoco import RefCOCOSource
from glamm_jax.grand.grandf.caption_rewriting import RewriteTask, find_phrase
from glamm_jax.grand.grandf.human_captions import captions_of

FILE_NAME = "RefCOCOg_GCG_{split}.json"
NO_EXPRESSION = "objects: no expression"
REPEATED_EXPRESSION = "objects: expression of another object"
MISSING_EXPRESSION = "expressions: not in the caption"
MAX_PHRASES = 12  # of a caption
TOO_MANY = "objects: more than fit a caption"
CAPTION_FILES = (
    "coco_2014/annotations/captions_{split}2014.json",
    "annotations/captions_{split}2014.json",
)


@dataclass(frozen=True)
class ReferredObject:
    """An object and its expression; the other fields are those of COCO."""

    sentence: str
    bbox: Any
    segmentation: Any


@dataclass(frozen=True)
class ReferredImage:
    """An image with the objects that expressions refer to."""

    key: str
    file_name: str
    objects: tuple[ReferredObject, ...]
    captions: tuple[str, ...]

    @property
    def task(self) -> RewriteTask:
        """What its caption is made of."""
        sentences = tuple(item.sentence for item in self.objects)
        return RewriteTask(self.key, "refcocog", sentences, self.captions)


def read_refcocog(root: Path, split: str, dropped: Counter[str]) -> list[ReferredImage]:
    """Read the images of a split.

    Args:
        root: the data folder.
        split: "train" or "val".
        dropped: receives what is left out.

    Raises:
        SourceError: a file is missing or damaged.
    """
    source = RefCOCOSource(root, split, folder="refcocog", owner="umd")
    # All of RefCOCOg's images are of COCO's training set.
    captions = captions_of(root, [name.format(split="train") for name in CAPTION_FILES])
    images = []
    for key in source.image_ids:
        objects: dict[str, ReferredObject] = {}
        for fields, sentences in source.referred_objects(key):
            sentence = next(iter(sentences), "").rstrip(".")
            if not sentence:
                dropped[NO_EXPRESSION] += 1
            elif sentence in objects:
                dropped[REPEATED_EXPRESSION] += 1
            elif len(objects) == MAX_PHRASES:
                dropped[TOO_MANY] += 1
            else:
                objects[sentence] = ReferredObject(
                    sentence, fields.get("bbox"), fields.get("segmentation")
                )
        if objects:
            name = source.file_name(key)
            images.append(ReferredImage(key, name, tuple(objects.values()), captions.get(key, ())))
    return images


def refcocog_entry(image: ReferredImage, caption: str, dropped: Counter[str]) -> Fields | None:
    """Return the entry of the file; None if the caption contains no expression.

    Args:
        image: the image.
        caption: of it.
        dropped: receives what is left out.
    """
    refs: list[Fields] = []
    for item in image.objects:
        if find_phrase(caption, item.sentence):
            refs.append(
                {
                    "sentence": item.sentence,
                    "bbox": item.bbox,
                    "segmentation": item.segmentation,
                }
            )
        else:
            dropped[MISSING_EXPRESSION] += 1
    if not refs:
        return None
    return {image.key: {"img_file_name": image.file_name, "caption": caption, "refs": refs}}

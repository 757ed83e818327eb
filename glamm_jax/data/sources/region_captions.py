"""Descriptions of boxes: refCOCO, refCOCO+, refCOCOg, Visual Genome, Flickr30k; in COCO's layout.

    RefCoco_Reg/mdetr_annotations/finetune_{refcoco,refcoco+,refcocog}_{train,val,...}.json
    RefCoco_Reg/coco_2014 or coco_2014/train2014                               their pictures
    visual_genome/{train,test_caption}.json, visual_genome/images
    {flikcr_30k,RefCoco_Reg}/mdetr_annotations/final_flickr_mergedGT_{train,val,test}.json
    flikcr_30k/flickr30k-images or flikcr_30k/train                            its pictures

The documentation and the original's code name different places (trap 36); both are looked at. One
`region` annotation a box, as annotated: it may reach beyond the picture (trap 12). Flickr30k has
one more a caption, the caption itself about all of its boxes: every box is there once and so is
every phrase, whatever is asked about them later (traps 16 and 42).
Source: dataset/region_datasets/{RefCOCO_VG,Flickr}_Region_ds.py. Differs: all entries of a picture
are one record; nothing is drawn or cut off here; a picture that is left out is counted (trap 38).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_of
from glamm_jax.data.sources.phrase_spans import checked_span
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.size_filters import is_short_caption, is_small_box, is_small_image
from glamm_jax.data.sources.source_files import (
    BAD_SPAN,
    EXTRA_SPANS,
    DefectLog,
    Fields,
    as_list,
    as_text,
    quoted,
)

CROWD = "crowd"


class DescribedRegions(CocoSource):
    """A description a box."""

    @abstractmethod
    def _description(self, entry: Fields, annotation: Fields) -> Any:
        """What the file says about a box, whatever it is."""

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        if is_small_image(draft.picture, draft.notes, where):
            return
        for annotation, name in self._said(entry):
            region = _region(draft, annotation, name)
            text = as_text(self._description(entry, annotation), draft.notes, name).strip()
            if text and region is not None:
                draft.annotate("region", text, [region])


class RefCOCORegions(DescribedRegions):
    """An expression a picture of the file, which lists the picture once for each of them."""

    name = "refcoco_regions"
    files = files_of(
        ("train", "val", "testA", "testB"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcoco_{}.json",
    )
    folders = ("RefCoco_Reg/coco_2014", "coco_2014/train2014")

    def _description(self, entry: Fields, annotation: Fields) -> Any:
        return entry.get("caption")


class RefCOCOPlusRegions(RefCOCORegions):
    """The same without words of place."""

    name = "refcoco+_regions"
    files = files_of(
        ("train", "val", "testA", "testB"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcoco+_{}.json",
    )


class RefCOCOgRegions(RefCOCORegions):
    """The same with longer sentences."""

    name = "refcocog_regions"
    files = files_of(
        ("train", "val", "test"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcocog_{}.json",
    )


class VisualGenome(DescribedRegions):
    """A caption a box. The original validates on the test set."""

    name = "visual_genome"
    files = files_of(("train",), "visual_genome/train.json") | files_of(
        ("test",), "visual_genome/test_caption.json"
    )
    folders = ("visual_genome/images",)

    def _description(self, entry: Fields, annotation: Fields) -> Any:
        return annotation.get("caption")


class FlickrRegions(CocoSource):
    """Captions of Flickr30k about all of their boxes, and the phrase of each box.

    An annotation with several spans belongs to the first one; without one its box is spoken of by
    the caption alone.
    """

    name = "flickr_regions"
    files = files_of(
        ("train", "val", "test"),
        "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_{}.json",
        "RefCoco_Reg/mdetr_annotations/final_flickr_mergedGT_{}.json",
    )
    folders = ("flikcr_30k/flickr30k-images", "flikcr_30k/{}")

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        notes = draft.notes
        text = as_text(entry.get("caption"), notes, f"{where}, caption")
        if is_short_caption(text, notes, where) or is_small_image(draft.picture, notes, where):
            return
        phrases: dict[int, str] = {}
        for annotation, name in self._said(entry):
            if annotation.get("iscrowd"):
                notes.add(CROWD, name)
                continue
            region = _region(draft, annotation, name)
            if region is not None:
                phrases[region] = _phrase(text, annotation, notes, name)
        if phrases:
            draft.annotate("region", text, list(phrases))
        for region, phrase in phrases.items():
            if phrase:
                draft.annotate("region", phrase, [region])


def _region(draft: RecordBuilder, annotation: Fields, where: str) -> int | None:
    """The region of a box, or None and a defect."""
    if is_small_box(annotation, draft.notes, where):
        return None
    return draft.region(draft.box(annotation.get("bbox"), where, xywh=True), None)


def _phrase(caption: str, annotation: Fields, notes: DefectLog, where: str) -> str:
    """The words of a caption that name a box, or "" and a defect."""
    spans = as_list(annotation.get("tokens_positive"), notes, f"{where}, tokens_positive")
    if len(spans) > 1:
        notes.add(EXTRA_SPANS, f"{where}: {quoted(spans)}")
    span = checked_span(spans[0], caption) if spans else None
    if span is None:
        notes.add(BAD_SPAN, f"{where}: {quoted(spans)}")
        return ""
    return as_text(caption[slice(*span)], notes, where)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    each.name: each
    for each in (RefCOCORegions, RefCOCOPlusRegions, RefCOCOgRegions, VisualGenome, FlickrRegions)
}

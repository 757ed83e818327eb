"""Captions of boxes: RefCOCO, RefCOCO+, RefCOCOg, Visual Genome and Flickr30k, in COCO's layout.

    RefCoco_Reg/mdetr_annotations/finetune_{refcoco,refcoco+,refcocog}_{train,val,...}.json
    RefCoco_Reg/coco_2014 or coco_2014/train2014                               their images
    visual_genome/{train,test_caption}.json, visual_genome/images
    {flikcr_30k,RefCoco_Reg}/mdetr_annotations/final_flickr_mergedGT_{train,val,test}.json
    flikcr_30k/flickr30k-images or flikcr_30k/train                            its images

The documentation and the code of the original name different places (quirk 36), so both are read.
One `region` annotation for each box, as annotated; a box may reach beyond the image (quirk 12: the
original keeps such boxes). Flickr30k has one more for each caption: the caption itself, about all
of its boxes. Every box and every phrase is stored once (quirks 16 and 42: the original mentions
each box of Flickr30k twice, and limits its phrases to 10 but not its boxes).
Source: dataset/region_datasets/{RefCOCO_VG,Flickr}_Region_ds.py. Differs: all entries of an image
are one record; nothing is sampled or truncated here; images that are left out are counted as
defects (quirk 38: the original reports an unfiltered number of items).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.defects import BAD_SPAN, EXTRA_SPANS, DefectLog, quoted
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_by_split
from glamm_jax.data.sources.json_files import Fields, as_list, as_text, is_set
from glamm_jax.data.sources.phrase_spans import checked_span
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.size_filters import is_short_caption, is_small_box, is_small_image

CROWD = "crowd annotation"


class RegionCaptionSource(CocoSource):
    """One caption for each box."""

    @abstractmethod
    def _caption(self, entry: Fields, annotation: Fields) -> Any:
        """The caption of a box; its type is not checked."""

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        if is_small_image(builder.image, builder.log, where):
            return
        for annotation, place in self._annotations(entry):
            region = _add_box(builder, annotation, place)
            text = as_text(self._caption(entry, annotation), builder.log, place).strip()
            if text and region is not None:
                builder.add_annotation("region", text, [region])


class RefCOCORegions(RegionCaptionSource):
    """RefCOCO; its file lists an image once for each expression."""

    name = "refcoco_regions"
    files = files_by_split(
        ("train", "val", "testA", "testB"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcoco_{}.json",
    )
    image_folders = ("RefCoco_Reg/coco_2014", "coco_2014/train2014")

    def _caption(self, entry: Fields, annotation: Fields) -> Any:
        return entry.get("caption")


class RefCOCOPlusRegions(RefCOCORegions):
    """RefCOCO+: expressions without words of location."""

    name = "refcoco+_regions"
    files = files_by_split(
        ("train", "val", "testA", "testB"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcoco+_{}.json",
    )


class RefCOCOgRegions(RefCOCORegions):
    """RefCOCOg: longer expressions."""

    name = "refcocog_regions"
    files = files_by_split(
        ("train", "val", "test"),
        "RefCoco_Reg/mdetr_annotations/finetune_refcocog_{}.json",
    )


class VisualGenome(RegionCaptionSource):
    """Visual Genome. The original validates on its test set."""

    name = "visual_genome"
    files = files_by_split(("train",), "visual_genome/train.json") | files_by_split(
        ("test",), "visual_genome/test_caption.json"
    )
    image_folders = ("visual_genome/images",)

    def _caption(self, entry: Fields, annotation: Fields) -> Any:
        return annotation.get("caption")


class FlickrRegions(CocoSource):
    """Flickr30k: captions about all of their boxes, and the phrase of each box.

    Of several spans of an annotation the first one is used. A box without a span is only a part of
    the annotation of its caption.
    """

    name = "flickr_regions"
    files = files_by_split(
        ("train", "val", "test"),
        "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_{}.json",
        "RefCoco_Reg/mdetr_annotations/final_flickr_mergedGT_{}.json",
    )
    image_folders = ("flikcr_30k/flickr30k-images", "flikcr_30k/{}")

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        log = builder.log
        text = as_text(entry.get("caption"), log, f"{where}, caption")
        if is_short_caption(text, log, where) or is_small_image(builder.image, log, where):
            return
        phrases: dict[int, str] = {}  # region -> phrase, "" without one
        for annotation, place in self._annotations(entry):
            if is_set(annotation.get("iscrowd")):
                log.add(CROWD, place)
                continue
            region = _add_box(builder, annotation, place)
            if region is not None:
                phrases[region] = _phrase(text, annotation, log, place)
        if phrases:
            builder.add_annotation("region", text, list(phrases))
        for region, phrase in phrases.items():
            if phrase:
                builder.add_annotation("region", phrase, [region])


def _add_box(builder: RecordBuilder, annotation: Fields, where: str) -> int | None:
    """Add the box of an annotation as a region; None and a defect where that is not possible."""
    if is_small_box(annotation, builder.log, where):
        return None
    return builder.add_region(builder.parse_box(annotation.get("bbox"), where, xywh=True), None)


def _phrase(caption: str, annotation: Fields, log: DefectLog, where: str) -> str:
    """The words of a caption that name a box; "" and a defect where there are none."""
    spans = as_list(annotation.get("tokens_positive"), log, f"{where}, tokens_positive")
    if len(spans) > 1:
        log.add(EXTRA_SPANS, f"{where}: {quoted(spans)}")
    span = checked_span(spans[0], caption) if spans else None
    if span is None:
        log.add(BAD_SPAN, f"{where}: {quoted(spans)}")
        return ""
    return as_text(caption[slice(*span)], log, where)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    source.name: source
    for source in (RefCOCORegions, RefCOCOPlusRegions, RefCOCOgRegions, VisualGenome, FlickrRegions)
}

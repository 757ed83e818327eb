"""GranD-f: four datasets of captions whose phrases have masks; ground truth of val and test.

    GranDf/annotations/train/{GranDf_HA_GCG_train, OpenPsgGCG_{train,val}, RefCOCOg_GCG_{train,val},
                              flickr_mergedGT_GCG_{train,val}}.json
    GranDf/annotations/val_test/{val,test}_gcg_coco_{caption,mask}_gt.json

Images may be where the documentation or where the code of the original places them (quirk 36); all
paths start at the data folder.
Source: dataset/gcg_datasets/GranDf_gcg_ds.py. Differs: all captions of an image are one record;
validation sets are complete (the original stops at 1000 images); a caption without groundings is
kept as a plain caption (the original samples another image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.dataset_files import require_split
from glamm_jax.data.sources.defects import (
    EXTRA_SPANS,
    LABELS_AND_MASKS,
    NULL_GROUNDING,
    REPEATED_PHRASE,
    quoted,
)
from glamm_jax.data.sources.grouped_by_image import CocoSource, GroupedSource, files_by_split
from glamm_jax.data.sources.json_files import Fields, as_fields, as_id, as_list, as_text
from glamm_jax.data.sources.phrase_spans import PhraseSpans
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.size_filters import is_short_caption, is_small_box, is_small_image

TRAIN, VAL_TEST = "GranDf/annotations/train", "GranDf/annotations/val_test"


class PhraseKeyedSource(GroupedSource):
    """Captions with groundings by phrase, so a phrase that occurs twice is grounded once."""

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        log = builder.log
        text = as_text(entry.get("caption"), log, f"{where}, caption").strip('"').strip()
        if not text:
            return
        phrases = PhraseSpans(text, log, where)
        for phrase, grounding in as_fields(entry.get("groundings") or {}, log, where).items():
            place = f"{where}, {quoted(phrase)}"
            if grounding is None:
                log.add(NULL_GROUNDING, place)
                continue
            fields = as_fields(grounding, log, place)
            mask = builder.parse_mask(fields.get("rle_masks"), place) if fields else None
            region = builder.add_region(None, mask)
            if region is None:
                continue
            phrases.add_phrase(phrase, fields.get("token_positives"), [region])
            if phrases.count_occurrences(phrase) > 1:
                log.add(REPEATED_PHRASE, f"{place} occurs more than once, is grounded once")
        builder.add_grounded_caption(text, phrases, where)


class GranDfHumanAnnotated(PhraseKeyedSource):
    """Images of SA-1B, annotated by people."""

    name = "grandf_ha"
    files = files_by_split(("train",), f"{TRAIN}/GranDf_HA_GCG_{{}}.json")
    image_folders = ("GranDf/GranDf_HA_images/train", "GranDf_HA_images/train")


class GranDfOpenPSG(PhraseKeyedSource):
    """OpenPSG: images of COCO 2017 with panoptic scene graphs."""

    name = "grandf_psg"
    files = files_by_split(("train", "val"), f"{TRAIN}/OpenPsgGCG_{{}}.json")
    image_folders = ("coco_2017/train2017", "coco_2017/val2017")


class GranDfRefCOCOg(GroupedSource):
    """Captions made of RefCOCOg's expressions, lower-cased as the original trains on them.

    Differs: expressions are searched for in the lower-cased caption, ignoring case, as complete
    words, and only overlapping phrases are cut. The original loses the span of an expression with
    a capital letter, and cuts every phrase that an expression further down in the file precedes
    (quirk 40).
    """

    name = "grandf_refcocog"
    files = files_by_split(("train", "val"), f"{TRAIN}/RefCOCOg_GCG_{{}}.json")
    image_folders = ("coco_2014/train2014",)

    def _with_file_name(self, entry: Any) -> Any:
        """The file lists {id: fields}."""
        fields = next(iter(entry.values()), None) if isinstance(entry, dict) else None
        return (
            fields | {"file_name": fields.get("img_file_name")}
            if isinstance(fields, dict)
            else None
        )

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        log = builder.log
        caption = as_text(entry.get("caption"), log, f"{where}, caption")
        text = caption.strip('"').strip().lower()
        if not text:
            return
        phrases = PhraseSpans(text, log, where)
        for i, item in enumerate(as_list(entry.get("refs"), log, f"{where}, refs")):
            place = f"{where}, ref {i}"
            ref = as_fields(item, log, place)
            phrase = as_text(ref.get("sentence"), log, place) if ref else ""
            mask = builder.parse_mask(ref.get("segmentation"), place) if phrase else None
            region = builder.add_region(None, mask)
            if region is not None:
                phrases.search_phrase(phrase, [region])
        builder.add_grounded_caption(text, phrases, where)


class GranDfFlickr30k(CocoSource):
    """Captions of Flickr30k in COCO's layout, with masks that were made from their boxes.

    Of several spans of an annotation the first one is used. Boxes of one phrase are separate
    regions with the same span.
    """

    name = "grandf_flickr"
    files = files_by_split(("train", "val"), f"{TRAIN}/flickr_mergedGT_GCG_{{}}.json")
    image_folders = ("flikcr_30k/train", "flikcr_30k/flickr30k-images")

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        log = builder.log
        text = as_text(entry.get("caption"), log, f"{where}, caption")
        if is_short_caption(text, log, where) or is_small_image(builder.image, log, where):
            return
        phrases = PhraseSpans(text, log, where)
        for annotation, place in self._annotations(entry):
            if is_small_box(annotation, log, place):
                continue
            spans = as_list(annotation.get("tokens_positive"), log, f"{place}, tokens_positive")
            mask = builder.parse_mask(annotation.get("sam_mask"), place)
            box = builder.parse_box(annotation.get("bbox"), place, xywh=True)
            if mask is None:
                continue
            region = builder.add_region(box, mask)
            if len(spans) > 1:
                log.add(EXTRA_SPANS, f"{place}: {quoted(spans)}")
            span = spans[0] if spans else None
            phrases.add_phrase(None, span, [] if region is None else [region])
        builder.add_grounded_caption(text, phrases, where)


class GranDfGroundTruth(GroupedSource):
    """Ground truth of the evaluation: a file of captions with labels, and a file of masks.

    The masks of an image belong to its labels by their order in the files.
    """

    name = GranDfHumanAnnotated.name
    files = files_by_split(("val", "test"), f"{VAL_TEST}/{{}}_gcg_coco_caption_gt.json")
    image_folders = ("GranDf/GranDf_HA_images/val_test", "GranDf_HA_images/val_test")

    def _read_entries(self) -> Iterable[Any]:
        captions = self._read_coco(self._file)
        masks = self._read_coco(self._file.with_name(f"{self.split}_gcg_coco_mask_gt.json"))
        self._captions, self._masks = captions.annotations, masks.annotations
        return captions.images

    def _with_file_name(self, entry: Any) -> Any:
        """Without a file name the id is used, as in the names of the original's predictions."""
        if not isinstance(entry, dict) or "file_name" in entry:
            return entry
        return entry | {"file_name": f"{as_id(entry.get('id'))}.jpg"}

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        log, image_id = builder.log, as_id(entry.get("id")) or ""
        masks = self._masks.get(image_id, [])
        regions = [
            builder.add_region(
                None, builder.parse_mask(mask.get("segmentation"), f"{where}, mask {i}")
            )
            for i, mask in enumerate(masks)
        ]
        for caption in self._captions.get(image_id, []):
            text = as_text(caption.get("caption"), log, f"{where}, caption")
            labels = as_list(caption.get("labels"), log, f"{where}, labels")
            if not text:
                continue
            if len(labels) != len(masks):
                log.add(LABELS_AND_MASKS, f"{where}: {len(labels)} labels, {len(masks)} masks")
            phrases = PhraseSpans(text, log, where)
            for i, (label, region) in enumerate(zip(labels, regions, strict=False)):
                phrase = as_text(label, log, f"{where}, label {i}")
                if phrase and region is not None:
                    phrases.search_phrase(phrase, [region])
            builder.add_grounded_caption(text, phrases, where)


def _human_annotated(root: Path, split: str) -> GranDfHumanAnnotated | GranDfGroundTruth:
    """Open the training captions, or the ground truth of val and test."""
    splits = (*GranDfHumanAnnotated.files, *GranDfGroundTruth.files)
    require_split(GranDfHumanAnnotated.name, split, splits)
    if split in GranDfGroundTruth.files:
        return GranDfGroundTruth(root, split)
    return GranDfHumanAnnotated(root, split)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    GranDfHumanAnnotated.name: _human_annotated,
    GranDfOpenPSG.name: GranDfOpenPSG,
    GranDfRefCOCOg.name: GranDfRefCOCOg,
    GranDfFlickr30k.name: GranDfFlickr30k,
}

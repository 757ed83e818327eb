"""GranD_f: four sets of captions whose phrases have masks, and the ground truth of val and test.

    GranDf/annotations/train/{GranDf_HA_GCG_train, OpenPsgGCG_{train,val}, RefCOCOg_GCG_{train,val},
                              flickr_mergedGT_GCG_{train,val}}.json
    GranDf/annotations/val_test/{val,test}_gcg_coco_{caption,mask}_gt.json

Pictures lie where the documentation says or where the original's code looks (trap 36); all paths
start at the data folder.
Source: dataset/gcg_datasets/GranDf_gcg_ds.py. Differs: all captions of a picture are one record;
validation sets are whole (the original stops at 1000 pictures); a picture without groundings keeps
its caption (the original draws another one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.grouped_by_image import CocoSource, GroupedSource, files_of
from glamm_jax.data.sources.phrase_spans import Phrases
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.size_filters import is_short_caption, is_small_box, is_small_image
from glamm_jax.data.sources.source_files import (
    EXTRA_SPANS,
    LABELS_AND_MASKS,
    NULL_GROUNDING,
    REPEATED_PHRASE,
    Fields,
    as_fields,
    as_id,
    as_list,
    as_text,
    quoted,
    require_split,
)

TRAIN, VAL_TEST = "GranDf/annotations/train", "GranDf/annotations/val_test"


class PhraseKeyedSource(GroupedSource):
    """Captions with groundings by phrase, so a phrase that occurs twice is grounded once."""

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        notes = draft.notes
        text = as_text(entry.get("caption"), notes, f"{where}, caption").strip('"').strip()
        if not text:
            return
        phrases = Phrases(text, notes, where)
        for phrase, grounding in as_fields(entry.get("groundings") or {}, notes, where).items():
            name = f"{where}, {quoted(phrase)}"
            if grounding is None:
                notes.add(NULL_GROUNDING, name)
                continue
            fields = as_fields(grounding, notes, name)
            shape = draft.mask(fields.get("rle_masks"), name) if fields else None
            region = draft.region(None, shape)
            if region is None:
                continue
            phrases.place(phrase, fields.get("token_positives"), [region])
            if phrases.count(phrase) > 1:
                notes.add(REPEATED_PHRASE, f"{name} occurs more than once, is grounded once")
        draft.annotate_phrases(text, phrases, where)


class HumanAnnotated(PhraseKeyedSource):
    """Pictures of SA-1B, annotated by people."""

    name = "grandf_ha"
    files = files_of(("train",), f"{TRAIN}/GranDf_HA_GCG_{{}}.json")
    folders = ("GranDf/GranDf_HA_images/train", "GranDf_HA_images/train")


class OpenPSG(PhraseKeyedSource):
    """Pictures of COCO 2017 with panoptic scene graphs."""

    name = "grandf_psg"
    files = files_of(("train", "val"), f"{TRAIN}/OpenPsgGCG_{{}}.json")
    folders = ("coco_2017/train2017", "coco_2017/val2017")


class RefCOCOg(GroupedSource):
    """Captions made of RefCOCOg's expressions, lower-cased as the original trains on them.

    Differs (trap 40): expressions are looked for in the lower-cased caption without case, as whole
    words; only what overlaps is cut. The original loses the place of an expression with a capital,
    and cuts every phrase that a reference further down in the file stands before.
    """

    name = "grandf_refcocog"
    files = files_of(("train", "val"), f"{TRAIN}/RefCOCOg_GCG_{{}}.json")
    folders = ("coco_2014/train2014",)

    def _image_fields(self, entry: Any) -> Any:
        """The file lists {id: fields}."""
        fields = next(iter(entry.values()), None) if isinstance(entry, dict) else None
        return (
            fields | {"file_name": fields.get("img_file_name")}
            if isinstance(fields, dict)
            else None
        )

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        notes = draft.notes
        caption = as_text(entry.get("caption"), notes, f"{where}, caption")
        text = caption.strip('"').strip().lower()
        if not text:
            return
        phrases = Phrases(text, notes, where)
        for i, item in enumerate(as_list(entry.get("refs"), notes, f"{where}, refs")):
            name = f"{where}, ref {i}"
            ref = as_fields(item, notes, name)
            phrase = as_text(ref.get("sentence"), notes, name) if ref else ""
            shape = draft.mask(ref.get("segmentation"), name) if phrase else None
            region = draft.region(None, shape)
            if region is not None:
                phrases.search(phrase, [region])
        draft.annotate_phrases(text, phrases, where)


class Flickr30k(CocoSource):
    """Captions of Flickr30k in COCO's layout, masks made from their boxes.

    An annotation with several spans belongs to the first one. Boxes of one phrase stay regions of
    their own with one span.
    """

    name = "grandf_flickr"
    files = files_of(("train", "val"), f"{TRAIN}/flickr_mergedGT_GCG_{{}}.json")
    folders = ("flikcr_30k/train", "flikcr_30k/flickr30k-images")

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        notes = draft.notes
        text = as_text(entry.get("caption"), notes, f"{where}, caption")
        if is_short_caption(text, notes, where) or is_small_image(draft.picture, notes, where):
            return
        phrases = Phrases(text, notes, where)
        for annotation, name in self._said(entry):
            self._ground(draft, annotation, phrases, name)
        draft.annotate_phrases(text, phrases, where)

    @staticmethod
    def _ground(draft: RecordBuilder, annotation: Fields, phrases: Phrases, where: str) -> None:
        notes = draft.notes
        if is_small_box(annotation, notes, where):
            return
        spans = as_list(annotation.get("tokens_positive"), notes, f"{where}, tokens_positive")
        shape = draft.mask(annotation.get("sam_mask"), where)
        box = draft.box(annotation.get("bbox"), where, xywh=True)
        if shape is None:
            return
        region = draft.region(box, shape)
        if len(spans) > 1:
            notes.add(EXTRA_SPANS, f"{where}: {quoted(spans)}")
        phrases.place(None, spans[0] if spans else None, [] if region is None else [region])


class GroundTruth(GroupedSource):
    """Ground truth of the evaluation: a file of captions with labels, and one of masks.

    The masks of a picture belong to its labels one by one, in the order of the file.
    """

    name = HumanAnnotated.name
    files = files_of(("val", "test"), f"{VAL_TEST}/{{}}_gcg_coco_caption_gt.json")
    folders = ("GranDf/GranDf_HA_images/val_test", "GranDf_HA_images/val_test")

    def _load(self) -> Iterable[Any]:
        captions = self._coco(self._file)
        masks = self._coco(self._file.with_name(f"{self.split}_gcg_coco_mask_gt.json"))
        self._captions, self._masks = captions.annotations, masks.annotations
        return captions.images

    def _image_fields(self, entry: Any) -> Any:
        """Without a file name the id is one, as the original writes its predictions."""
        if not isinstance(entry, dict) or "file_name" in entry:
            return entry
        return entry | {"file_name": f"{as_id(entry.get('id'))}.jpg"}

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        notes, identity = draft.notes, as_id(entry.get("id")) or ""
        masks = self._masks.get(identity, [])
        regions = [
            draft.region(None, draft.mask(mask.get("segmentation"), f"{where}, mask {i}"))
            for i, mask in enumerate(masks)
        ]
        for caption in self._captions.get(identity, []):
            text = as_text(caption.get("caption"), notes, f"{where}, caption")
            labels = as_list(caption.get("labels"), notes, f"{where}, labels")
            if not text:
                continue
            if len(labels) != len(masks):
                notes.add(LABELS_AND_MASKS, f"{where}: {len(labels)} and {len(masks)}")
            phrases = Phrases(text, notes, where)
            for i, (label, region) in enumerate(zip(labels, regions, strict=False)):
                phrase = as_text(label, notes, f"{where}, label {i}")
                if phrase and region is not None:
                    phrases.search(phrase, [region])
            draft.annotate_phrases(text, phrases, where)


def _human_annotated(root: Path, split: str) -> HumanAnnotated | GroundTruth:
    """Training captions, or the ground truth of val and test."""
    require_split(HumanAnnotated.name, split, (*HumanAnnotated.files, *GroundTruth.files))
    return (GroundTruth if split in GroundTruth.files else HumanAnnotated)(root, split)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    HumanAnnotated.name: _human_annotated,
    OpenPSG.name: OpenPSG,
    RefCOCOg.name: RefCOCOg,
    Flickr30k.name: Flickr30k,
}

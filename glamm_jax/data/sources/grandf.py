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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from glamm_jax.data.record import Found, Source
from glamm_jax.data.sources.coco_file import read_coco
from glamm_jax.data.sources.draft import Draft
from glamm_jax.data.sources.phrases import Phrases
from glamm_jax.data.sources.reading import (
    BROKEN_ENTRY,
    EXTRA_SPANS,
    LABELS_AND_MASKS,
    MISSING_IMAGE,
    NULL_GROUNDING,
    REPEATED_PHRASE,
    SHORT_CAPTION,
    SMALL_BOX,
    SMALL_IMAGE,
    Fields,
    Notes,
    SourceError,
    as_fields,
    as_id,
    as_list,
    as_numbers,
    as_text,
    existing,
    find_picture,
    read_json,
    read_picture,
    shown,
)

ANNOTATIONS = "GranDf/annotations"
MIN_WORDS, MIN_SIDE = 3, 32  # of Flickr's captions and pictures
# What one entry of a file is: its number there, and its fields.
Entry = tuple[int, Fields]


def _files(pattern: str, *splits: str) -> dict[str, str]:
    """The annotation file of each split."""
    return {split: pattern.format(split) for split in splits}


class GroundedSource(ABC):
    """Entries of one file, gathered by picture. What has no picture has a key of its own.

    Raises: SourceError when the annotations are absent or no JSON, or there is no such split.
    """

    name = ""
    files: Mapping[str, str]  # split -> file
    folders: tuple[str, ...]  # where pictures may lie

    def __init__(self, root: Path, split: str):
        if split not in self.files:
            raise SourceError(f"{self.name}: no split {split!r}; there are {', '.join(self.files)}")
        self.split, self._root = split, root
        self._file = existing(root, [f"{ANNOTATIONS}/{self.files[split]}"])
        self._entries: dict[str, list[Entry]] = {}
        self._broken: dict[str, tuple[str, str]] = {}
        for i, entry in enumerate(self._load()):
            self._sort_in(i, entry)

    @property
    def keys(self) -> Sequence[str]:
        """File names of pictures, in the order of the file, then entries that name none."""
        return [*self._entries, *self._broken]

    def read(self, key: str) -> Found:
        """All captions of a picture."""
        notes = Notes(f"{self._file.name} {shown(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return Found(None, tuple(notes.defects))
        path = self.image_path(key)
        if path is None:
            notes.add(MISSING_IMAGE, f"not in {' or '.join(self.folders)}")
        picture = read_picture(path, notes) if path else None
        if picture is None:
            return Found(None, tuple(notes.defects))
        draft = Draft(picture, notes)
        for i, entry in self._entries[key]:
            draft.check_size(entry.get("height"), entry.get("width"))
            self._fill(draft, entry, f"entry {i}")
        return draft.found(PurePosixPath(key).stem, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        return find_picture(self._root, self.folders, key)

    def _sort_in(self, i: int, entry: Any) -> None:
        fields = self._picture_fields(entry)
        name = fields.get("file_name") if isinstance(fields, dict) else None
        if isinstance(name, str) and name:
            self._entries.setdefault(name, []).append((i, fields))
        else:
            self._broken[f"entry {i}"] = (BROKEN_ENTRY, f"names no picture: {shown(entry)}")

    def _lists(self, file: Path) -> tuple[list[Any], dict[str, list[Fields]]]:
        """Pictures of a file in COCO's layout, annotations by picture; the others are broken."""
        layout = read_coco(file)
        self._broken |= layout.strays
        return layout.images, layout.annotations

    def _load(self) -> Iterable[Any]:
        entries = read_json(self._file)
        if not isinstance(entries, list):
            raise SourceError(f"{self._file}: a list of pictures is expected, not {shown(entries)}")
        return entries

    def _picture_fields(self, entry: Any) -> Any:
        """An entry with its picture's name as `file_name`."""
        return entry

    @abstractmethod
    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
        """Add what an entry says about its picture."""


class PhraseKeyedSource(GroundedSource):
    """Captions with groundings by phrase, so a phrase that occurs twice is grounded once."""

    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
        notes = draft.notes
        text = as_text(entry.get("caption"), notes, f"{where}, caption").strip('"').strip()
        if not text:
            return
        phrases = Phrases(text, notes, where)
        for phrase, grounding in as_fields(entry.get("groundings") or {}, notes, where).items():
            name = f"{where}, {shown(phrase)}"
            if grounding is None:
                notes.add(NULL_GROUNDING, name)
                continue
            fields = as_fields(grounding, notes, name)
            shape = draft.shape(fields.get("rle_masks"), name) if fields else None
            region = draft.region(None, shape)
            if region is None:
                continue
            phrases.place(phrase, fields.get("token_positives"), [region])
            if phrases.count(phrase) > 1:
                notes.add(REPEATED_PHRASE, f"{name} occurs more than once, is grounded once")
        draft.ground(text, phrases, where)


class HumanAnnotated(PhraseKeyedSource):
    """Pictures of SA-1B, annotated by people."""

    name = "grandf_ha"
    files = _files("train/GranDf_HA_GCG_{}.json", "train")
    folders = ("GranDf/GranDf_HA_images/train", "GranDf_HA_images/train")


class OpenPSG(PhraseKeyedSource):
    """Pictures of COCO 2017 with panoptic scene graphs."""

    name = "grandf_psg"
    files = _files("train/OpenPsgGCG_{}.json", "train", "val")
    folders = ("coco_2017/train2017", "coco_2017/val2017")


class RefCOCOg(GroundedSource):
    """Captions made of RefCOCOg's expressions, lower-cased as the original trains on them.

    Differs (trap 40): expressions are looked for in the lower-cased caption without case, as whole
    words; only what overlaps is cut. The original loses the place of an expression with a capital,
    and cuts every phrase that a reference further down in the file stands before.
    """

    name = "grandf_refcocog"
    files = _files("train/RefCOCOg_GCG_{}.json", "train", "val")
    folders = ("coco_2014/train2014",)

    def _picture_fields(self, entry: Any) -> Any:
        """The file lists {id: fields}."""
        fields = next(iter(entry.values()), None) if isinstance(entry, dict) else None
        return (
            fields | {"file_name": fields.get("img_file_name")}
            if isinstance(fields, dict)
            else None
        )

    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
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
            shape = draft.shape(ref.get("segmentation"), name) if phrase else None
            region = draft.region(None, shape)
            if region is not None:
                phrases.search(phrase, [region])
        draft.ground(text, phrases, where)


class Flickr30k(GroundedSource):
    """Captions of Flickr30k in COCO's layout, masks made from their boxes.

    An annotation with several spans belongs to the first one. Boxes of one phrase stay regions of
    their own with one span.
    """

    name = "grandf_flickr"
    files = _files("train/flickr_mergedGT_GCG_{}.json", "train", "val")
    folders = ("flikcr_30k/train", "flikcr_30k/flickr30k-images")

    def _load(self) -> Iterable[Any]:
        images, self._annotations = self._lists(self._file)
        return images

    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
        notes = draft.notes
        text = as_text(entry.get("caption"), notes, f"{where}, caption")
        if len(text.split(" ")) < MIN_WORDS:
            notes.add(SHORT_CAPTION, f"{where}: {shown(text)}")
            return
        if min(draft.picture.height, draft.picture.width) < MIN_SIDE:
            notes.add(SMALL_IMAGE, f"{where}: {draft.picture.height} x {draft.picture.width}")
            return
        phrases = Phrases(text, notes, where)
        for annotation in self._annotations.get(as_id(entry.get("id")) or "", []):
            self._ground(draft, annotation, phrases, f"annotation {shown(annotation.get('id'))}")
        draft.ground(text, phrases, where)

    @staticmethod
    def _ground(draft: Draft, annotation: Fields, phrases: Phrases, where: str) -> None:
        notes = draft.notes
        bounds, area = annotation.get("bbox"), as_numbers([annotation.get("area")], 1)
        numbers = as_numbers(bounds, 4)
        small = numbers is not None and (numbers[2] < 1 or numbers[3] < 1)
        if small or (area is not None and area[0] <= 0) or annotation.get("ignore"):
            notes.add(SMALL_BOX, f"{where}: {shown(bounds)}, area {shown(annotation.get('area'))}")
            return
        spans = as_list(annotation.get("tokens_positive"), notes, f"{where}, tokens_positive")
        shape = draft.shape(annotation.get("sam_mask"), where)
        box = draft.box(bounds, where, xywh=True)
        if shape is None:
            return
        region = draft.region(box, shape)
        if len(spans) > 1:
            notes.add(EXTRA_SPANS, f"{where}: {shown(spans)}")
        phrases.place(None, spans[0] if spans else None, [] if region is None else [region])


class GroundTruth(GroundedSource):
    """Ground truth of the evaluation: a file of captions with labels, and one of masks.

    The masks of a picture belong to its labels one by one, in the order of the file.
    """

    name = HumanAnnotated.name
    files = _files("val_test/{}_gcg_coco_caption_gt.json", "val", "test")
    folders = ("GranDf/GranDf_HA_images/val_test", "GranDf_HA_images/val_test")

    def _load(self) -> Iterable[Any]:
        images, self._captions = self._lists(self._file)
        masks = self._file.with_name(f"{self.split}_gcg_coco_mask_gt.json")
        _, self._masks = self._lists(masks)
        return images

    def _picture_fields(self, entry: Any) -> Any:
        """Without a file name the id is one, as the original writes its predictions."""
        if not isinstance(entry, dict) or "file_name" in entry:
            return entry
        return entry | {"file_name": f"{as_id(entry.get('id'))}.jpg"}

    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
        notes, identity = draft.notes, as_id(entry.get("id")) or ""
        masks = self._masks.get(identity, [])
        regions = [
            draft.region(None, draft.shape(mask.get("segmentation"), f"{where}, mask {i}"))
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
            draft.ground(text, phrases, where)


def _human_annotated(root: Path, split: str) -> HumanAnnotated | GroundTruth:
    """Training captions, or the ground truth of val and test."""
    return (GroundTruth if split in GroundTruth.files else HumanAnnotated)(root, split)


DATASETS: dict[str, Callable[[Path, str], Source]] = {
    HumanAnnotated.name: _human_annotated,
    OpenPSG.name: OpenPSG,
    RefCOCOg.name: RefCOCOg,
    Flickr30k.name: Flickr30k,
}

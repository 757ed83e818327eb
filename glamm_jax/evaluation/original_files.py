"""Items out of the files that the original's evaluations, and those of the paper, read.

    gcg              {val,test}_gcg_coco_caption_gt.json and ..._mask_gt.json, images/ID.jpg
    region_caption   COCO captions whose annotations have a bbox; ids of annotations are those of
                     pictures: finetune_refcocog_val_captions.json, visual_genome/test_caption.json
    image_caption    COCO captions (NoCaps), or Karpathy's splits: dataset_flickr30k.json
    conversation     LLaVA-Bench: questions.jsonl, context.jsonl, answers_gpt4.jsonl, images/

Pictures are opened when they are asked about, so one that is missing fails alone. Truths that
cannot be read are named in `notes`; what is left of an item stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.record import Record, RecordError
from glamm_jax.data.sources.coco_file import CocoFile, read_coco
from glamm_jax.data.sources.defects import BAD_MASK, DefectLog, SourceError, quoted
from glamm_jax.data.sources.json_files import as_id, as_list, as_numbers, read_json
from glamm_jax.data.sources.mask_annotations import read_mask
from glamm_jax.evaluation.item import Item, RunLengths
from glamm_jax.evaluation.record_items import PromptTemplate

CAPTIONS, MASKS = "{}_gcg_coco_caption_gt.json", "{}_gcg_coco_mask_gt.json"
GCG_PLACES = ("", "GranDf/annotations/val_test", "annotations/val_test", "val_test")
BENCH = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
# Where pictures may lie, from the folder of the annotations and from those above it.
PICTURE_PLACES = (
    *("images", "GranDf/GranDf_HA_images/val_test", "GranDf_HA_images/val_test"),
    *("coco_2014/train2014", "visual_genome/images", "flickr30k-images", "flikcr_30k/train", ""),
)


class ImageFiles:
    """Pictures by number, as records without annotations."""

    def __init__(self, folder: Path, names: Sequence[str], ids: Sequence[str]):
        self.folder, self._names, self._ids = folder, names, ids

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        """Raises: RecordError when the file is not there."""
        path = self.folder / self._names[index]
        try:
            image = path.read_bytes()
        except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
            raise RecordError(f"{path}: no such picture") from error
        return Record(image, self._ids[index], str(self.folder), "", 0, 0)

    def size(self, number: int) -> int:
        """Bytes of a picture, 0 for one that is not there."""
        path = self.folder / self._names[number]
        return path.stat().st_size if path.is_file() else 0


@dataclass
class AnnotatedImages:
    """Pictures, items about them, and what could not be read: kind -> places.

    name: of the data, as the paper's tables call it.
    """

    records: ImageFiles
    name: str = ""
    items: list[Item] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, notes: DefectLog) -> None:
        """Take over the defects of one picture."""
        for kind, where in notes.defects:
            self.notes.setdefault(kind, []).append(where)


ReadFiles = Callable[[Path, str, Path | None, PromptTemplate], AnnotatedImages]


def gcg(data: Path, split: str, images: Path | None, wording: PromptTemplate) -> AnnotatedImages:
    """Grounded captions as the original judges them: labels and masks by their position.

    Raises: SourceError when a file is missing or not in COCO's layout.
    """
    names = [place for place in GCG_PLACES if (data / place / CAPTIONS.format(split)).is_file()]
    if not names:
        raise SourceError(f"{data}: no {CAPTIONS.format(split)} in it or in {GCG_PLACES[1]}")
    base = data / names[0]
    captions = read_coco(base / CAPTIONS.format(split))
    masks = read_coco(base / MASKS.format(split)).annotations
    found = _pictures(captions, base, images)
    for number, entry in enumerate(captions.images):
        identity = as_id(entry.get("id")) or ""
        notes = DefectLog(f"picture {identity}")
        told = captions.annotations.get(identity, [])
        labels = as_list(told[0].get("labels"), notes, "labels") if told else []
        found.items.append(
            Item(
                identity,
                identity,
                number,
                wording.format(),
                reference_texts=tuple(str(each.get("caption", "")) for each in told),
                reference_phrases=tuple(map(str, labels)),
                reference_masks=tuple(
                    _mask(each, entry, notes) for each in masks.get(identity, [])
                ),
            )
        )
        found.note(notes)
    return found


def region_captions(
    data: Path, split: str, images: Path | None, wording: PromptTemplate
) -> AnnotatedImages:
    """Descriptions of boxes. `split` chooses among the files of a folder.

    Source: eval/ddp.py:8, where the annotation with the picture's id has the box (trap 49).

    Raises: SourceError when there is no such file.
    """
    file = _only_file(data, split, "captions.json", "caption.json")
    told = read_coco(file)
    found = _pictures(told, file.parent, images)
    found.name = _known_name(file)
    for number, entry in enumerate(told.images):
        identity = as_id(entry.get("id")) or ""
        notes = DefectLog(f"picture {identity}")
        said = told.annotations.get(identity, [])
        named = next((each for each in said if as_id(each.get("id")) == identity), None)
        numbers = as_numbers(named.get("bbox"), 4) if named else None
        if numbers is None:
            notes.add("no bbox of an annotation with the picture's id", quoted(said))
        else:
            x, y, width, height = numbers
            texts = tuple(str(each.get("caption", "")) for each in said)
            prompt, box = wording.format(num_regions=1), (x, y, x + width, y + height)
            found.items.append(
                Item(identity, identity, number, prompt, regions=(box,), reference_texts=texts)
            )
        found.note(notes)
    return found


def image_captions(
    data: Path, split: str, images: Path | None, wording: PromptTemplate
) -> AnnotatedImages:
    """Captions of whole pictures, of COCO's layout or Karpathy's.

    Raises: SourceError when there is no such file, or it has another layout.
    """
    file = _only_file(data, split, ".json")
    fields = read_json(file)
    if isinstance(fields, dict) and "annotations" not in fields:
        told = _karpathy(file, fields, split)
    else:
        told = read_coco(file)
    found = _pictures(told, file.parent, images)
    found.name = _known_name(file)
    for number, entry in enumerate(told.images):
        identity = as_id(entry.get("id")) or ""
        texts = tuple(str(x.get("caption", "")) for x in told.annotations.get(identity, []))
        if texts:
            item = Item(identity, identity, number, wording.format(), reference_texts=texts)
            found.items.append(item)
        else:
            found.notes.setdefault("no caption", []).append(f"picture {identity}")
    return found


def _karpathy(file: Path, fields: Mapping[str, Any], split: str) -> CocoFile:
    """The pictures of a split, in COCO's layout."""
    try:
        own = [each for each in fields["images"] if each["split"] == split]
        images = [{"id": each["imgid"], "file_name": each["filename"]} for each in own]
        said = {
            str(each["imgid"]): [{"caption": sentence["raw"]} for sentence in each["sentences"]]
            for each in own
        }
    except (KeyError, TypeError) as error:
        raise SourceError(f"{file}: neither COCO's captions nor Karpathy's: {error!r}") from error
    if not own:
        raise SourceError(f"{file}: no picture of split {split!r}")
    return CocoFile(images, said, {}, [])


def llava_bench(
    data: Path, split: str, images: Path | None, wording: PromptTemplate
) -> AnnotatedImages:
    """Questions with the picture's description, which a judge is told, and GPT-4's answers.

    Raises: SourceError naming the file that is missing or broken.
    """
    questions, contexts, answers = ([*_json_lines(data / name)] for name in BENCH)
    try:
        context = {each["image"]: each["caption"] for each in contexts}
        answer = {str(each["question_id"]): each["text"] for each in answers}
        names = list(dict.fromkeys(each["image"] for each in questions))
        found = AnnotatedImages(ImageFiles(images or data / "images", names, names))
        for each in questions:
            identity, name = str(each["question_id"]), each["image"]
            about = {"category": each["category"], "context": context.get(name, "")}
            true = (answer[identity],) if identity in answer else ()
            number, asked = names.index(name), each["text"]
            found.items.append(
                Item(identity, name, number, asked, reference_texts=true, metadata=about)
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{data}: not LLaVA-Bench: {error!r}") from error
    return found


def _json_lines(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; LLaVA-Bench has {', '.join(BENCH)} and images/")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}: line {number} is no JSON") from error


def _only_file(data: Path, split: str, *endings: str) -> Path:
    """The file itself, or the one of a folder that ends so; of several that with the split."""
    if data.is_file():
        return data
    found = [
        path
        for ending in endings
        for path in sorted(data.glob("*.json"))
        if path.match(f"*{ending}")
    ]
    found = [*dict.fromkeys(found)]
    named = [path for path in found if split in path.stem.replace("-", "_").split("_")]
    chosen = named if len(found) > 1 else found
    if len(chosen) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(
            f"{data}: one file *{endings[0]} of split {split!r} is expected; there are {names}. "
            "Name the file itself"
        )
    return chosen[0]


def _known_name(file: Path) -> str:
    """The one of the paper's tables that stands in the file's name or its folder's."""
    place = f"{file.parent.name}/{file.name}".lower()
    known = {"visual_genome": "visual_genome", "flickr": "flickr30k"}
    known |= {name: name for name in ("refcocog", "refcoco+", "refcoco", "nocaps")}
    return next((name for part, name in known.items() if part in place), file.stem)


def _pictures(told: CocoFile, base: Path, images: Path | None) -> AnnotatedImages:
    """Where the pictures of a file lie.

    Raises: SourceError when an entry has no id, or the pictures are nowhere.
    """
    for i, entry in enumerate(told.images):
        if not isinstance(entry, dict) or as_id(entry.get("id")) is None:
            raise SourceError(f"{base}: picture {i} of the annotations has no id: {quoted(entry)}")
    if told.unassigned:
        kind, where = next(iter(told.unassigned.values()))
        raise SourceError(
            f"{base}: {len(told.unassigned)} broken annotations; the first: {kind}: {where}"
        )
    # Without a file name the id is one, as the original writes its predictions.
    names = [str(e.get("file_name") or f"{as_id(e.get('id'))}.jpg") for e in told.images]
    return AnnotatedImages(
        ImageFiles(
            images or _folder_of(names, base), names, [as_id(e["id"]) or "" for e in told.images]
        )
    )


def _folder_of(names: Sequence[str], base: Path) -> Path:
    """The folder that has the most of the first pictures; not the first one alone, which may be
    the one that is missing."""
    places = [
        above / place for above in (base, *base.resolve().parents[:3]) for place in PICTURE_PLACES
    ]
    few = names[:20]
    counts = [sum((place / name).is_file() for name in few) for place in places]
    if few and not max(counts):
        raise SourceError(
            f"{base}: pictures such as {few[0]!r} are in none of {', '.join(PICTURE_PLACES[:-1])} "
            "there or above; name their folder with --images"
        )
    return places[counts.index(max(counts))]


def _mask(annotation: Mapping[str, Any], image: Mapping[str, Any], notes: DefectLog) -> RunLengths:
    """A true mask; an empty one and a note where it is broken, so that positions stay."""
    sizes = image.get("height"), image.get("width")
    height, width = (x if isinstance(x, int) and x > 0 else 0 for x in sizes)
    parts = annotation.get("segmentation")
    if isinstance(parts, Mapping):
        try:  # as it is, also where its size is another than the picture's
            return rle.compress(parts)
        except rle.MaskError as error:
            notes.add(BAD_MASK, f"mask {quoted(annotation.get('id'))}: {error}")
            return rle.encode(np.zeros((height, width), bool))
    shape = read_mask(parts, height, width, notes, f"mask {quoted(annotation.get('id'))}")
    if shape is None:
        return rle.encode(np.zeros((height, width), bool))
    return {"size": [height, width], "counts": shape.mask.decode("ascii")}

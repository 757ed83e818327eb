"""The benchmark `image_caption`: a description of the image, on NoCaps and Flickr30k; table 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data.record import Record
from glamm_jax.data.sources.coco_file import CocoFile, read_coco
from glamm_jax.data.sources.dataset_files import require_split
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.json_files import as_id, read_json
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Prediction,
    PromptTemplate,
    annotations_of_task,
)
from glamm_jax.evaluation.benchmarks.generated_text import (
    CAPTION_MODE_DIFFERENCES,
    score_texts,
    write_caption_list,
)
from glamm_jax.evaluation.benchmarks.original_annotations import (
    dataset_name,
    find_annotation_file,
    find_images,
)
from glamm_jax.evaluation.published import PaperTable
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import CAPTION_QUESTIONS


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make an item of the record, with all of its captions as references.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the item.
    """
    texts = tuple(annotation.text for annotation in annotations_of_task(record, "caption"))
    if texts:
        name = record.image_id
        yield Item(name, name, index, prompt.format(), reference_texts=texts)


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read captions in COCO's layout (NoCaps) or Karpathy's (dataset_flickr30k.json).

    Args:
        path: the file, or its folder.
        split: selects among several files of a folder; in Karpathy's layout, among the images.
        images: folder of the images; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: there is no such file, or it has another layout.
    """
    file = find_annotation_file(path, split, ".json")
    fields = read_json(file)
    is_karpathy = isinstance(fields, dict) and "annotations" not in fields
    coco = _from_karpathy(file, fields, split) if is_karpathy else read_coco(file)
    result = AnnotatedImages(find_images(coco, file.parent, images), dataset_name(file))
    for index, image in enumerate(coco.images):
        image_id = as_id(image.get("id")) or ""
        annotations = coco.annotations.get(image_id, [])
        texts = tuple(str(annotation.get("caption", "")) for annotation in annotations)
        if texts:
            item = Item(image_id, image_id, index, prompt.format(), reference_texts=texts)
            result.items.append(item)
        else:
            result.notes.setdefault("no caption", []).append(f"image {image_id}")
    return result


def _from_karpathy(file: Path, fields: Mapping[str, Any], split: str) -> CocoFile:
    """Convert the images of a split to COCO's layout."""
    try:
        entries = [entry for entry in fields["images"] if entry["split"] == split]
        images = [{"id": entry["imgid"], "file_name": entry["filename"]} for entry in entries]
        annotations = {
            str(entry["imgid"]): [{"caption": sentence["raw"]} for sentence in entry["sentences"]]
            for entry in entries
        }
    except (KeyError, TypeError) as error:
        raise SourceError(
            f"{file}: captions neither in COCO's layout nor in Karpathy's: {error!r}"
        ) from error
    require_split(str(file), split, list(dict.fromkeys(x["split"] for x in fields["images"])))
    return CocoFile(images, annotations, {}, [])


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write a list of captions, in the layout of the original's region captions."""
    write_caption_list(folder / "image_caption.json", predictions)
    return []


TABLE = PaperTable(
    6,
    ("nocaps", "flickr30k"),
    ("CIDEr", "SPICE"),
    (
        ("GLaMM", "zero-shot", "106.8 15.8  95.3 18.8"),
        ("Kosmos-2", "unspecified", "- -  66.7 -"),
        ("Kosmos-1", "unspecified", "- -  67.1 14.5"),
        ("Shikra-13B", "unspecified", "- -  73.9 -"),
        ("InstructBLIP", "unspecified", "123.1 -  82.8 -"),
        ("BLIP-2", "unspecified", "121.6 15.8  - -"),
        ("BLIP", "unspecified", "113.2 14.7  - -"),
        ("CoCa", "unspecified", "120.6 15.5  - -"),
        ("SimVLM", "unspecified", "110.3 14.5  - -"),
        ("LEMON", "unspecified", "106.8 14.1  - -"),
        ("VinVLM", "unspecified", "95.5 13.5  - -"),
    ),
)

IMAGE_CAPTION = Benchmark(
    name="image_caption",
    description="image captioning: a description of the image",
    splits=("val", "test"),
    original_prompt=CAPTION_QUESTIONS[0],
    training_prompt=CAPTION_QUESTIONS[0],
    items_from_record=items_from_record,
    items_from_annotations=items_from_annotations,
    score=score_texts,
    export=export,
    uses_captions=True,
    published=TABLE.rows(),
    mode_differences=CAPTION_MODE_DIFFERENCES,
)

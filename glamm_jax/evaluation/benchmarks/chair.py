"""The benchmark `chair`: object hallucination of captions on COCO (CHAIR).

    annotations/instances_val2014.json, captions_val2014.json    of the split "val", or of 2017
    val2014                                                      its images

Protocol: the model describes every image of the split (`--limit 500` for the first 500); the
objects of an image are those of its instances and its captions; `metrics.object_hallucination`
counts the others that the description mentions. The published numbers are of captions of different
images (Karpathy's test split; for assistants often 500 images chosen at random), lengths and
prompts: CHAIR grows with the length of a description.

Source: utils/chair.py, README.md of LisaAnne/Hallucination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data.sources.coco_file import CocoFile, read_coco
from glamm_jax.data.sources.defects import UNKNOWN_ID, DefectLog, SourceError, quoted
from glamm_jax.data.sources.json_files import as_id
from glamm_jax.evaluation.benchmarks.base import (
    AnnotatedImages,
    Benchmark,
    Item,
    Prediction,
    Predictions,
    PromptTemplate,
    TextScorers,
    refuse_record,
)
from glamm_jax.evaluation.benchmarks.generated_text import write_caption_list
from glamm_jax.evaluation.benchmarks.mask_items import collect_answers
from glamm_jax.evaluation.benchmarks.original_annotations import find_images
from glamm_jax.metrics.coco_objects import OBJECT_WORDS
from glamm_jax.metrics.object_hallucination import score_hallucination
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import CAPTION_QUESTIONS

FOLDERS, YEARS = ("", "annotations", "coco_2014/annotations", "coco_2017/annotations"), (2014, 2017)
OBJECTS = "objects"  # the name in `Item.metadata`; no name of a class has a comma
SEPARATOR = ", "


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read instances and captions of a split of COCO.

    Args:
        path: folder of the two files, or one of the folders above it.
        split: "val" or "train"; the files of 2014 come first.
        images: folder of the images; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: a file is missing or has another layout.
    """
    file = next(
        (
            path / folder / f"instances_{split}{year}.json"
            for year in YEARS
            for folder in FOLDERS
            if (path / folder / f"instances_{split}{year}.json").is_file()
        ),
        None,
    )
    if file is None:
        raise SourceError(
            f"{path}: no instances_{split}{YEARS[0]}.json in it or in {', '.join(FOLDERS[1:])}"
        )
    instances = read_coco(file)
    captions = read_coco(file.with_name(file.name.replace("instances", "captions", 1)))
    result = AnnotatedImages(find_images(instances, file.parent, images), "chair")
    names = {as_id(x.get("id")): x.get("name") for x in instances.categories if isinstance(x, dict)}
    for index, image in enumerate(instances.images):
        image_id = as_id(image.get("id")) or ""
        log = DefectLog(f"image {image_id}")
        classes = _classes(instances, image_id, names, log)
        texts = tuple(str(x.get("caption", "")) for x in captions.annotations.get(image_id, []))
        if not texts:
            log.add("no caption", "the objects are those of the instances alone")
        result.items.append(
            Item(
                image_id,
                image_id,
                index,
                prompt.format(),
                reference_texts=texts,
                metadata={OBJECTS: SEPARATOR.join(classes)},
            )
        )
        result.add_defects(log)
    return result


def _classes(
    instances: CocoFile, image_id: str, names: Mapping[str | None, Any], log: DefectLog
) -> list[str]:
    """Return the classes of the instances of an image, each once."""
    classes: dict[str, None] = {}
    for entry in instances.annotations[image_id]:
        name = names.get(as_id(entry.get("category_id")))
        if isinstance(name, str) and name in OBJECT_WORDS:
            classes[name] = None
        else:
            log.add(UNKNOWN_ID, f"category {quoted(entry.get('category_id'))}: no class of COCO")
    return list(classes)


def score(
    items: Sequence[Item], predictions: Predictions, mode: Mode, scorers: TextScorers
) -> MetricResult:
    """Compute CHAIRi and CHAIRs, in strict also object_recall.

    Args:
        items: to be scored.
        predictions: by item id; one that failed is a missing one.
        mode: of counting.
        scorers: unused.
    """
    captions = collect_answers(
        predictions, items, lambda item: predictions[item.id].text, lambda unknown: unknown.text
    )
    annotated = {
        item.id: [*filter(None, item.metadata.get(OBJECTS, "").split(SEPARATOR))] for item in items
    }
    references = {item.id: item.reference_texts for item in items}
    return score_hallucination(captions, annotated, references, mode)


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write a list of captions, with the ids of the images."""
    write_caption_list(folder / "chair.json", predictions)
    return []


_WORDS = "strict counts three words that the published program cannot find"

CHAIR = Benchmark(
    name="chair",
    description="object hallucination of captions on COCO: CHAIRi, CHAIRs (lower is better)",
    splits=("val", "train"),
    original_prompt=CAPTION_QUESTIONS[0],
    training_prompt=CAPTION_QUESTIONS[0],
    items_from_record=refuse_record,
    items_from_annotations=items_from_annotations,
    score=score,
    export=export,
    mode_differences={
        "CHAIRi": _WORDS,
        "CHAIRs": f"{_WORDS}, and a missing caption as one with a hallucination",
    },
)

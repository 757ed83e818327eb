"""The benchmark `region_caption`: descriptions of boxes, on refCOCOg, Visual Genome; table 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from glamm_jax.data.record import Record
from glamm_jax.data.sources.coco_file import read_coco
from glamm_jax.data.sources.defects import DefectLog, quoted
from glamm_jax.data.sources.json_files import as_id, as_numbers
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
from glamm_jax.text.questions import REGION_INSTRUCTION, REGION_QUESTIONS


def items_from_record(record: Record, index: int, prompt: PromptTemplate) -> Iterator[Item]:
    """Make an item of every description of a single box.

    Args:
        record: with annotations.
        index: of the record in its source.
        prompt: of the items.
    """
    for k, annotation in enumerate(annotations_of_task(record, "region")):
        boxes = [record.regions[link.region].box_xyxy_pixel for link in annotation.links]
        if len(boxes) == 1 and boxes[0] is not None:
            name = f"{record.image_id}/{k}"
            yield Item(
                name,
                name,
                index,
                prompt.format(num_regions=1),
                regions=(boxes[0],),
                reference_texts=(annotation.text,),
            )


def items_from_annotations(
    path: Path, split: str, images: Path | None, prompt: PromptTemplate
) -> AnnotatedImages:
    """Read COCO captions with boxes: finetune_refcocog_val_captions.json, test_caption.json.

    Source: eval/ddp.py:8. The box is that of the annotation whose id is the image's (quirk 49).

    Args:
        path: the file, or its folder.
        split: selects among several files of a folder.
        images: folder of the images; None: searched for.
        prompt: of every item.

    Raises:
        SourceError: there is no such file, or it has another layout.
    """
    file = find_annotation_file(path, split, "captions.json", "caption.json")
    coco = read_coco(file)
    result = AnnotatedImages(find_images(coco, file.parent, images), dataset_name(file))
    for index, image in enumerate(coco.images):
        image_id = as_id(image.get("id")) or ""
        log = DefectLog(f"image {image_id}")
        annotations = coco.annotations.get(image_id, [])
        with_box = next((x for x in annotations if as_id(x.get("id")) == image_id), None)
        numbers = as_numbers(with_box.get("bbox"), 4) if with_box else None
        if numbers is None:
            log.add("no bbox of an annotation with the image's id", quoted(annotations))
        else:
            x, y, width, height = numbers
            result.items.append(
                Item(
                    image_id,
                    image_id,
                    index,
                    prompt.format(num_regions=1),
                    regions=((x, y, x + width, y + height),),
                    reference_texts=tuple(str(x.get("caption", "")) for x in annotations),
                )
            )
        result.add_defects(log)
    return result


def export(folder: AnyPath, predictions: Sequence[Prediction]) -> list[str]:
    """Write a list of captions, as `eval/region_captioning/infer.py` of the original does."""
    write_caption_list(folder / "region_caption.json", predictions)
    return []


TABLE = PaperTable(
    5,
    ("refcocog", "visual_genome"),
    ("METEOR", "CIDEr"),
    (
        ("GLaMM", "fine-tuned", "16.2 106.0  19.7 180.5"),
        ("GLaMM", "zero-shot", "15.7 104.0  17.0 127.0"),
        ("GPT4RoI", "unspecified", "- -  17.4 145.2"),
        ("Kosmos-2", "unspecified", "14.1 62.3  - -"),
        ("GRiT", "unspecified", "15.2 71.6  17.1 142"),
    ),
)

REGION_CAPTION = Benchmark(
    name="region_caption",
    description="region captioning: a description of a box",
    splits=("val", "test"),
    original_prompt=REGION_INSTRUCTION,
    training_prompt=REGION_QUESTIONS[0],
    items_from_record=items_from_record,
    items_from_annotations=items_from_annotations,
    score=score_texts,
    export=export,
    num_regions=1,
    uses_captions=True,
    in_validation=True,
    published=TABLE.rows(),
    mode_differences=CAPTION_MODE_DIFFERENCES,
)

"""Recorded items of segmentation by class, of regions, captions and conversations: our records."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from glamm_jax.data.record import Record
from glamm_jax.data.sources import region_captions, semantic_segmentation
from glamm_jax.data.sources.coco_captions import COCOCaptions
from glamm_jax.data.sources.llava_instruct import LLaVAInstruct150k
from glamm_jax.text.questions import name_regions
from glamm_jax.text.special_tokens import IMAGE_PLACEHOLDER
from tools.parity.dataset_items import (
    NAMES_REGION,
    NOT_PICTURES,
    DatasetCheck,
    Item,
    PicturedSource,
    compare_absent,
    compare_drawn_regions,
    compare_picture,
    compare_regions,
    compare_segmentation,
    items_of,
    name_one_each,
    record_at,
    record_of,
    recorded_answers,
    recorded_turns,
    rendered,
)
from tools.parity.report import RecordedFile

PATH_IS_A_TUPLE = "the original fails (trap 37); ours has a test"
BARE_IMAGE = f"{IMAGE_PLACEHOLDER}\n"


def _check_label_maps(
    recorded: RecordedFile,
    dataset: str,
    data: Path,
    *,
    source: type[semantic_segmentation.LabelMapSource],
    shift: int = 0,
) -> None:
    """Classes that were drawn. shift: how much lower the original counts the classes."""
    ours = source(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        numbers = set(item.get("label.unique")) - {semantic_segmentation.UNLABELLED}
        names = {ours.classes.get(number + shift) for number in numbers}
        said = {each.text for each in record.annotations}
        item.require("label.unique", names == said, "the classes of ours, all of them")
        compare_segmentation(item, record, "semantic")
    recorded.exclude(f"{dataset}.len", NOT_PICTURES)


def _check_parts(
    recorded: RecordedFile,
    dataset: str,
    data: Path,
    *,
    source: type[semantic_segmentation.PartSource],
) -> None:
    """Objects and parts that were drawn, by paths that were put together wrongly (trap 37)."""
    ours = source(data, "train")
    for item in items_of(recorded, dataset):
        if "error" in item:
            item.exclude("error", PATH_IS_A_TUPLE)
            continue
        first, *rest = item.get("image_path")
        meant = "/".join(rest) if first == "Semantic_Segm" else first
        key, record = record_at(meant, item, ours, data)
        item.compare("image_path", [first, "coco_2017", key], note="found by it (trap 37)")
        compare_segmentation(item, record, "semantic")
    recorded.exclude(f"{dataset}.len", NOT_PICTURES)


def _check_regions(
    recorded: RecordedFile,
    dataset: str,
    data: Path,
    *,
    source: type[region_captions.DescribedRegions],
    split: str = "train",
    bare: bool = False,
) -> None:
    """Descriptions of boxes. bare: the image, and before the first question advice of its own."""
    ours = source(data, split)
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_regions(item, record, _advice(item) if bare else None)
    recorded.compare(f"{dataset}.len", len(_records(ours)), "exact")


def _advice(item: Item) -> str:
    """What stands between the bare image and the first question is the original's own wording."""
    advice = recorded_turns(item)[0].removeprefix(BARE_IMAGE).removesuffix(item.get("questions")[0])
    return BARE_IMAGE + advice


def _check_flickr(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """A caption about all regions, then the phrase of each."""
    ours = region_captions.FlickrRegions(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        compare_drawn_regions(item, record)
        texts = item.get("sampled_classes")
        group, *each = recorded_turns(item)
        named = name_regions(len(texts)) in group and name_one_each(each, len(texts))
        item.require("questions", item.get("questions") == [_asked(group)] and named, NAMES_REGION)
        captions = [x.text for x in record.annotations if len(x.links) == len(item.get("bboxes"))]
        caption = recorded_answers(item)[0]
        answers = [caption if caption in captions else captions[0], *texts]
        item.compare("conversations", rendered([_asked(group), *each], answers))
    recorded.compare(f"{dataset}.len", len(ours.keys), "exact", "unfiltered (trap 38)")


def _asked(turn: str) -> str:
    """The question of the first turn, without our preamble."""
    return turn.partition("\n")[2]


def _check_captions(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """A caption that was drawn, whatever the index (trap 41)."""
    ours = COCOCaptions(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        captions = [each.text for each in record.annotations]
        drawn = recorded_answers(item)[0]
        caption = drawn if drawn in captions else captions[0]
        question = _asked(recorded_turns(item)[0])
        item.compare("sampled_classes", [caption])
        item.compare("conversations", rendered([question], [caption]))
        item.compare("questions", [], note="the original keeps none")
        compare_absent(item, "bboxes", "masks", "label")
    num_captions = sum(len(record.annotations) for record in _records(ours))
    recorded.compare(f"{dataset}.len", num_captions, "exact")


def _check_conversations(recorded: RecordedFile, dataset: str, data: Path) -> None:
    """Conversations whose first question follows the bare image."""
    ours = LLaVAInstruct150k(data, "train")
    for item in items_of(recorded, dataset):
        _, record = record_of(item, ours, data)
        compare_picture(item, record)
        turns = [each.turns for each in record.annotations]
        said = [rendered(each[::2], each[1::2], BARE_IMAGE) for each in turns]
        drawn = item.get("conversations")
        for field in ("conversations", "questions", "sampled_classes"):
            item.compare(field, drawn if drawn in said else said[0])
        compare_absent(item, "bboxes", "masks", "label")
    recorded.exclude(f"{dataset}.len_error", "the original fails (trap 38); ours has a test")


def _records(source: PicturedSource) -> list[Record]:
    found = (source.read(key).record for key in source.keys)
    return [record for record in found if record is not None]


CHECKS: dict[str, DatasetCheck] = {
    "Semantic_ade20k": partial(
        _check_label_maps, source=semantic_segmentation.ADE20KSource, shift=1
    ),
    "Semantic_cocostuff": partial(_check_label_maps, source=semantic_segmentation.COCOStuff),
    "Semantic_mapillary": partial(_check_label_maps, source=semantic_segmentation.Mapillary),
    **{
        f"Semantic_{name}_{state}": partial(_check_parts, source=source)
        for name, source in (
            ("pascal_part", semantic_segmentation.PASCALPart),
            ("paco_lvis", semantic_segmentation.PACO),
        )
        for state in ("as_is", "path_repaired")
    },
    "RefCoco_Reg": partial(_check_regions, source=region_captions.RefCOCORegions, bare=True),
    "RefCocoP_Reg": partial(_check_regions, source=region_captions.RefCOCOPlusRegions, bare=True),
    "RefCocoG_Reg": partial(_check_regions, source=region_captions.RefCOCOgRegions),
    "VisGen_Reg": partial(_check_regions, source=region_captions.VisualGenome),
    "VisGen_Reg_val": partial(_check_regions, source=region_captions.VisualGenome, split="test"),
    "Flickr_Reg": _check_flickr,
    "CocoCap": _check_captions,
    "LLaVaInstruct": _check_conversations,
}

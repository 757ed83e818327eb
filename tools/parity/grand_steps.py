"""The recorded steps of GranD's bookkeeping, computed by this library from their recorded inputs.

A step is a function of the recorded input; it returns what the original wrote, in the same form.
The chain gives each step our output of the step before.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.grand.attributes import describe_objects
from glamm_jax.grand.caption_grounding import ground_dense_caption, ground_short_captions
from glamm_jax.grand.fusion import fuse, merge_detections
from glamm_jax.grand.geometry import boxes_of_queries
from glamm_jax.grand.labels import choose_labels, label_questions
from glamm_jax.grand.links import link_phrases
from glamm_jax.grand.masks import add_masks, assign_masks, mask_jobs
from glamm_jax.grand.options import PRESETS
from glamm_jax.grand.phrases import (
    NounPhrase,
    PhraseBox,
    choose_boxes,
    content_lemmas,
    extract_phrases,
    long_phrases,
    parser_text,
    subtree_phrases,
)
from glamm_jax.grand.prediction_files import (
    detection_to_json,
    detections_of,
    model_contents,
    proposals_of,
)
from glamm_jax.grand.record import Detection, GrandRecord
from glamm_jax.grand.released_export import export_captions, export_objects, export_referring
from glamm_jax.grand.roles import ParsedText
from glamm_jax.grand.scene_graph import add_context, build_scene_graph, context_text

OPTIONS = PRESETS["released"]
ENDING = ".jpg"
SEGMENTER = "HQ_SAM"
Step = Callable[[Any], Any]


def merge(given: Any) -> Any:
    """10a: what each model's file says, after selection inside each model."""
    contents = model_contents(given["files"], given["image"])
    merged = merge_detections(detections_of(contents), OPTIONS.merge)
    lists = {name: [detection_to_json(item) for item in items] for name, items in merged.items()}
    return {given["image"]: {name: lists.get(name, value) for name, value in contents.items()}}


def fusion(given: Any) -> Any:
    """10b: objects by voting. The key is the image's name without letters of its ending."""
    image, contents = _entry(given)
    landmark = contents.get("landmark", "")
    record = fuse(
        detections_of(contents), landmark if isinstance(landmark, dict) else None, OPTIONS.fusion
    )
    value = _json(record)
    # A list, where the file of the model had no entry, is passed on.
    return {image.rstrip(ENDING): {**value, "landmark": landmark}}


def phrases(given: Any) -> Any:
    """13: nouns and phrases of both captions, and the results of both extractors."""
    captions = [given["blip2"], given["llava"]]
    parse = _parser(given["parses"])
    parsed = {text: parse(parser_text(text, OPTIONS.phrases)) for text in captions}
    found = [x for text in captions for x in extract_phrases(text, parsed[text], OPTIONS.phrases)]
    return {
        "nouns": [item.noun for item in found],
        "phrases": [item.phrase for item in found],
        "extractor_1": {text: _pairs(long_phrases(parsed[text])) for text in captions},
        "extractor_2": {text: _pairs(subtree_phrases(parsed[text])) for text in captions},
    }


def phrase_boxes(given: Any) -> Any:
    """13_mdetr: one box for each phrase."""
    width, height = given["image_size"]
    detections = [
        [Detection(box, score) for score, box in boxes_of_queries(queries, width, height)]
        for queries in given["queries"]
    ]
    named = [NounPhrase(*pair) for pair in zip(given["nouns"], given["phrases"], strict=True)]
    return [
        {"bbox": list(item.box), "label": item.nouns[0], "phrase": item.phrase}
        for item in choose_boxes(named, detections, OPTIONS.phrases)
    ]


def merge_level_2(given: Any) -> Any:
    """14a: captions and phrase boxes; an empty file has no entry."""
    files = {name: given[name] for name in ("blip2", "llava", "mdetr-re") if given[name]}
    return {given["image"]: model_contents(files, given["image"])}


def relations(given: Any) -> Any:
    """14b: links from phrases to objects."""
    image, level_2 = _entry(given["level_2_raw"])
    boxes = [
        PhraseBox(
            tuple(item["bbox"]),
            tuple(item["label"]) if isinstance(item["label"], list) else (item["label"],),
            item["phrase"],
        )
        for item in level_2.get("mdetr-re", [])
    ]
    captions = [level_2[name] for name in ("blip2", "llava") if name in level_2]
    record = link_phrases(_record(given["level_1"]), boxes, captions, OPTIONS.links)
    return {image: _json(record)}


def attributes(given: Any) -> Any:
    """15: descriptions and promotion."""
    replies = {int(number): text for number, text in given["replies"].items()}
    size = _size(given)
    return _changed(
        given["record"], lambda x: describe_objects(x, replies, size, OPTIONS.attributes)
    )


def candidates(given: Any) -> Any:
    """16: what the label chooser sees."""
    questions = label_questions(_record(given["record"]), _size(given), OPTIONS.labels)
    return {
        str(number): {
            "crop_size": [q.box[2] - q.box[0], q.box[3] - q.box[1]],
            "labels": list(q.labels),
        }
        for number, q in questions.items()
    }


def labels(given: Any) -> Any:
    """17: label and depth."""
    choices = {int(number): label for number, label in (given["labels"] or {}).items()}
    depth = depth_map(given["depth"])
    return _changed(given["record"], lambda x: choose_labels(x, choices, depth, OPTIONS.labels))


def depth_map(recorded: Any) -> np.ndarray | None:
    """Return the depth that a recorded 8-bit image and its limits stand for."""
    if recorded is None:
        return None
    if "jpeg_b64" in recorded:
        image = Image.open(io.BytesIO(base64.b64decode(recorded["jpeg_b64"])))
        levels = np.asarray(image.convert("L"))
    else:
        data = zlib.decompress(base64.b64decode(recorded["u8_zlib_b64"]))
        levels = np.frombuffer(data, np.uint8).reshape(recorded["height"], recorded["width"])
    low, high = recorded["min"], recorded["max"]
    return levels.astype(np.float32) / 255 * (high - low) + low


def graph(given: Any) -> Any:
    """18: the text for the dense caption."""
    found = build_scene_graph(_record(given), None, OPTIONS.graph)
    if found is None:
        return None
    return {"text": found.text, "group_ids": [list(pair) for pair in found.group_ids]}


def context_graph(given: Any) -> Any:
    """19: the text for the additional context."""
    text = context_text(_record(given), OPTIONS.graph)
    return None if text is None else {"text": text}


def short_captions(given: Any) -> Any:
    """20a: groundings of the short captions."""
    return _changed(given, lambda record: ground_short_captions(record, OPTIONS.grounding))


def dense_caption(given: Any) -> Any:
    """20b: groundings of the dense caption."""
    parse, text = _parser(given["parses"]), given["dense_caption"]
    return _changed(
        given["record"], lambda x: ground_dense_caption(x, text, parse, OPTIONS.grounding)
    )


def extractors(given: Any) -> Any:
    """Return our results for the recorded helper functions of 20b."""
    parse = _parser(given["parses"])
    return {
        "extractor_1": {
            text: _pairs(long_phrases(parse(text.capitalize()))) for text in given["extractor_1"]
        },
        "extractor_2": {
            text: _pairs(subtree_phrases(parse(text.capitalize()))) for text in given["extractor_2"]
        },
        "content_words": {text: content_lemmas(parse(text)) for text in given["content_words"]},
    }


def masks(given: Any) -> Any:
    """21: masks of regions and detections."""
    image, _ = _entry(given["record"])
    detections = detections_of(given["eva"].get(image, {}))
    regions = proposals_of(given["sam"].get("annotations", []))
    return _changed(given["record"], lambda x: assign_masks(x, regions, detections, OPTIONS.masks))


def box_prompts(given: Any, recorded: Any) -> Any:
    """22: boxes and prompts of the segmenter, and the record after its masks arrived.

    Args:
        given: the recorded input.
        recorded: the recorded output, whose masks stand for the segmenter's.
    """
    record = _record(given)
    jobs = mask_jobs(record, OPTIONS.masks)
    _, value = _entry(recorded["record"])
    found = {
        item["id"]: item["segmentation"]
        for item in value["objects"] + value.get("floating_objects", [])
        if item.get("segmentation_source") == SEGMENTER
    }
    answers = [found.get(job.id) for job in jobs]
    return {
        "box_ids": [job.id for job in jobs],
        "boxes": [list(job.box) for job in jobs],
        "prompts_as_built": [list(job.prompt) for job in jobs],
        "record": _changed(given, lambda x: add_masks(x, answers, OPTIONS.masks)),
    }


def context(given: Any) -> Any:
    """23: the additional context."""
    return _changed(given["record"], lambda record: add_context(record, given["context"]))


def _export(function: Callable[[GrandRecord], Any]) -> Step:
    def step(given: Any) -> Any:
        image, _ = _entry(given)
        value = function(_record(given))
        return None if value is None else {image: value}

    return step


exported_objects = _export(
    lambda record: [{k: v for k, v in x.items() if k != "votes"} for x in export_objects(record)]
)
exported_referring = _export(lambda record: export_referring(record, OPTIONS.export))
exported_captions = _export(lambda record: export_captions(record, OPTIONS.export))


def chain(given: Any, recorded: Mapping[str, Any], *, chained: bool) -> Iterator[tuple[str, Any]]:
    """Yield the name and our output of every step of a chain.

    Args:
        given: all that models contribute.
        recorded: outputs of the original, by step.
        chained: from our output of the step before; otherwise from the recorded one.
    """
    done: dict[str, Any] = {}
    image = given["image"]
    short = {name: given[name][image][name] for name in ("blip2", "llava")}
    inputs: dict[str, Callable[[], Any]] = {
        "10a": lambda: merge(given),
        "10b": lambda: fusion(done["10a"]),
        "13_phrases": lambda: phrases({**short, "parses": given["parses_short"]}),
        "14a": lambda: merge_level_2(given),
        "14b": lambda: relations({"level_2_raw": done["14a"], "level_1": done["10b"]}),
        "15": lambda: attributes({**given, "record": done["14b"]}),
        "16": lambda: candidates({**given, "record": done["15"]}),
        "17": lambda: labels(
            {"record": done["15"], "labels": given["label_choice"], "depth": given["depth"]}
        ),
        "18": lambda: graph(done["17"]),
        "19": lambda: context_graph(done["17"]),
        "20a": lambda: short_captions(done["17"]),
        "20b": lambda: dense_caption(
            {
                "record": done["20a"],
                "dense_caption": given["dense_caption"],
                "parses": given["dense_hooks"]["parses"],
            }
        ),
        "21": lambda: masks({"record": done["20b"], "sam": given["sam"], "eva": given["eva"]}),
        "22": lambda: box_prompts(done["21"], recorded["22"]),
        "23": lambda: context({"record": done["22"]["record"], "context": given["context"]}),
        "exp_objects": lambda: exported_objects(done["23"]),
        "exp_referring": lambda: exported_referring(done["23"]),
        "exp_captions": lambda: exported_captions(done["23"]),
    }
    for name, compute in inputs.items():
        if name in recorded:
            value = compute()
            done[name] = value if chained else recorded[name]
            yield name, value


STEPS: dict[str, Step] = {
    "10a_merge_nms": merge,
    "10b_fusion": fusion,
    "13_phrases": phrases,
    "14a_merge": merge_level_2,
    "14b_relations": relations,
    "15_attributes": attributes,
    "16_label_candidates": candidates,
    "17_label_depth": labels,
    "18_graph_level3": graph,
    "19_graph_level4": context_graph,
    "20a_short_ground": short_captions,
    "20b_dense_ground": dense_caption,
    "21_masks": masks,
    "23_context": context,
    "exp_objects": exported_objects,
    "exp_referring": exported_referring,
    "exp_captions": exported_captions,
}


def _entry(value: Mapping[str, Any]) -> tuple[str, Any]:
    ((name, content),) = value.items()
    return name, content


def _record(value: Mapping[str, Any]) -> GrandRecord:
    name, content = _entry(value)
    return GrandRecord.from_json(content, name)


def _changed(value: Mapping[str, Any], function: Callable[[GrandRecord], GrandRecord]) -> Any:
    name, _ = _entry(value)
    return {name: _json(function(_record(value)))}


def _json(record: GrandRecord) -> dict[str, Any]:
    """Return a record without the keys that are only ours."""
    value = record.to_json()
    for key in ("objects", "floating_objects", "floating_attributes"):
        for item in value.get(key) or []:
            item.pop("votes", None)
    return value


def _size(given: Mapping[str, Any]) -> tuple[int, int]:
    width, height = given["image_size"]
    return width, height


def _pairs(found: list[NounPhrase]) -> list[list[str]]:
    return [[item.noun, item.phrase] for item in found]


def _parser(parses: Mapping[str, Any]) -> Callable[[str], ParsedText]:
    """Return a parser that knows the recorded texts; others have no words.

    Where the original stopped early it has not parsed everything.
    """

    def parse(text: str) -> ParsedText:
        value = parses.get(text)
        if value is None:
            return ParsedText((), (), (), (), (), ())
        return ParsedText(
            tuple(value["text"]),
            tuple(value["pos"]),
            tuple(value["lemma"]),
            tuple(map(bool, value["stop"])),
            tuple(map(bool, value["punct"])),
            tuple(value["head"]),
        )

    return parse

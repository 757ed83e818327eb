"""Level 3: scene graph, dense caption with verification, grounding of all captions, masks.

objects -> scene_graph -> dense_caption
objects, dense_caption -> caption_grounding
caption_grounding, proposals, detections/* -> masks
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pycocotools.mask import toBbox

from glamm_jax.data import rle
from glamm_jax.grand.caption_grounding import ground_dense_caption, ground_short_captions
from glamm_jax.grand.geometry import inclusive_iou
from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.levels.level1 import DETECTIONS
from glamm_jax.grand.levels.sections import (
    OutputError,
    available,
    check_mask,
    checked_list,
    image_size,
    read_detections,
    read_record,
    record_section,
    to_sections,
)
from glamm_jax.grand.masks import MaskJob, add_masks, assign_masks, mask_jobs
from glamm_jax.grand.options import GroundingOptions, MaskOptions, SceneGraphOptions
from glamm_jax.grand.prompts import PromptTexts
from glamm_jax.grand.record import (
    Box,
    CaptionAttempt,
    Detection,
    GrandRecord,
    RunLengths,
    changed,
)
from glamm_jax.grand.roles import ParsedText, RoleError, Segmenter, TextLLM, TextParser
from glamm_jax.grand.scene_graph import build_scene_graph, context_text
from glamm_jax.grand.stages import ParsedSection, Section, Stage, StageError, StageImage
from glamm_jax.grand.verification import (
    DenseCaptionResult,
    VerificationOptions,
    write_dense_captions,
)


def graph_stage(options: SceneGraphOptions, tags: Sequence[str]) -> Stage:
    """Return the stage that sorts objects into layers and groups, and writes the graph's texts.

    Args:
        options: of the graph.
        tags: names of the stages of taggers; their tags may occur in a caption.
    """
    return Stage(
        name="scene_graph",
        inputs=("image", "objects"),
        optional_inputs=tuple(tags),
        settings=options,
        process=partial(_build, options=options, tags=tuple(tags)),
    )


def dense_caption_stage(
    llm: TextLLM,
    checker: TextLLM | None,
    parser: TextParser,
    prompts: PromptTexts,
    options: VerificationOptions,
) -> Stage:
    """Return the stage that writes and verifies the dense caption.

    Args:
        llm: writes it.
        checker: lists what it implies; None: `llm`.
        parser: of texts, where the checker's answer cannot be read.
        prompts: of all requests.
        options: rounds and retries.
    """
    checker = llm if checker is None else checker
    return Stage(
        name="dense_caption",
        inputs=("scene_graph",),
        settings={"verification": options, "prompts": prompts.fingerprint},
        roles=(llm, parser) if checker is llm else (llm, checker, parser),
        process=partial(
            _write, llm=llm, checker=checker, parser=parser, prompts=prompts, options=options
        ),
    )


def grounding_stage(role: TextParser, options: GroundingOptions, has_dense: bool) -> Stage:
    """Return the stage that grounds the phrases of all captions.

    Args:
        role: parser of texts.
        options: which phrases are compared with what.
        has_dense: whether there is a stage that writes dense captions.
    """
    return Stage(
        name="caption_grounding",
        inputs=("objects",),
        optional_inputs=("dense_caption",) if has_dense else (),
        settings=options,
        roles=(role,),
        process=partial(_ground, role=role, options=options),
    )


def mask_stage(
    role: Segmenter | None, proposals: bool, detections: Sequence[str], options: MaskOptions
) -> Stage:
    """Return the stage that gives objects their masks.

    Args:
        role: segments the boxes that no proposal fits; None: they have no mask.
        proposals: whether there is a stage that proposes regions.
        detections: names of the stages of detectors.
        options: how well a box must fit.
    """
    inputs = (*(("proposals",) if proposals else ()), *detections)
    return Stage(
        name="masks",
        inputs=("image", "caption_grounding"),
        optional_inputs=inputs,
        settings=options,
        roles=() if role is None else (role,),
        process=partial(_mask, role=role, detections=tuple(detections), options=options),
        version=2,
    )


# ------------------------------------------------------------------ functions of the stages


def _build(
    images: Sequence[StageImage], options: SceneGraphOptions, tags: Sequence[str]
) -> list[Any]:
    sections = []
    for image in images:
        record = image.parse("objects", read_record)
        assert record is not None
        graph = build_scene_graph(record, image_size(image), options)
        stuff = {text: None for _, section in available(tags, image) for text in section["tags"]}
        section: Section = {"text": None, "context": context_text(record, options)}
        if graph is not None:
            section["text"] = graph.text
            section["layers"] = [
                {"name": layer.name, "groups": [[k, [x.id for x in m]] for k, m in layer.groups]}
                for layer in graph.layers
            ]
            section["facts"] = _facts(record, [number for number, _ in graph.group_ids])
            section["landmark"] = [*record.landmark.values()] if record.landmark else []
            section["stuff"] = [*stuff]
        sections.append(section)
    return sections


def _facts(record: GrandRecord, ids: Sequence[int]) -> list[dict[str, Any]]:
    phrases: dict[int, list[str]] = {}
    for link in record.links:
        for number in link.object_ids:
            phrases.setdefault(number, []).append(link.phrase)
    by_id = {item.id: item for item in (*record.floating_objects, *record.objects)}
    return [
        {
            "id": number,
            "labels": [x for x in (by_id[number].label, *by_id[number].labels) if x],
            "attributes": list(by_id[number].attributes or ()),
            "phrases": phrases.get(number, []),
        }
        for number in ids
    ]


def read_graph(image_id: str, section: Section) -> GraphText:
    """Return the scene graph of a section of stage `scene_graph` that has one."""
    return GraphText(
        image_id,
        section["text"],
        tuple(
            ObjectFacts(x["id"], tuple(x["labels"]), tuple(x["attributes"]), tuple(x["phrases"]))
            for x in section["facts"]
        ),
        tuple(section["landmark"]),
        tuple(section["stuff"]),
    )


def _write(
    images: Sequence[StageImage],
    llm: TextLLM,
    checker: TextLLM,
    parser: TextParser,
    prompts: PromptTexts,
    options: VerificationOptions,
) -> list[Any]:
    graphs = [_graph(image) for image in images]
    usable = [graph for graph in graphs if graph is not None]
    written = iter(write_dense_captions(usable, llm, checker, options, prompts, parser))
    # An image without a graph has nothing to describe.
    return [
        _caption_section(DenseCaptionResult(None, None) if graph is None else next(written))
        for graph in graphs
    ]


def _caption_section(result: DenseCaptionResult) -> Section | RoleError:
    if result.caption is None and result.error is not None:
        return result.error
    return {
        "caption": result.caption,
        "source": result.source,
        "verified": result.verified,
        "attempts": [
            {
                "text": x.text,
                "finish_reason": x.finish_reason,
                "problem": x.problem,
                "checklist": x.checklist,
                "missing": x.missing,
            }
            for x in result.attempts
        ],
    }


def _graph(image: StageImage) -> GraphText | None:
    section = image.sections["scene_graph"]
    assert section is not None
    return None if section["text"] is None else read_graph(image.image_id, section)


def _ground(images: Sequence[StageImage], role: TextParser, options: GroundingOptions) -> list[Any]:
    def parse(text: str) -> ParsedText:
        (parsed,) = checked_list(role([text]), 1)
        if not isinstance(parsed, ParsedText):
            raise OutputError(f"the parser has no result: {parsed}")
        return parsed

    sections: list[Any] = []
    for image in images:
        record = image.parse("objects", read_record)
        assert record is not None
        dense = image.sections.get("dense_caption")
        try:
            record = ground_short_captions(record, options)
            if dense is not None and dense["caption"] is not None:
                record = ground_dense_caption(record, dense["caption"], parse, options)
                record = changed(
                    record,
                    dense_source=dense["source"],
                    verified=dense["verified"],
                    attempts=tuple(
                        CaptionAttempt(
                            x["text"],
                            x["finish_reason"],
                            x["problem"],
                            tuple(x["checklist"]),
                            tuple(x["missing"]),
                        )
                        for x in dense["attempts"]
                    ),
                )
        except OutputError as error:
            sections.append(StageError("output", str(error)))
            continue
        sections.append(record_section(record))
    return sections


def _mask(
    images: Sequence[StageImage],
    role: Segmenter | None,
    detections: Sequence[str],
    options: MaskOptions,
) -> list[Any]:
    records: list[GrandRecord] = []
    for image in images:
        record = image.parse("caption_grounding", read_record)
        assert record is not None
        proposals: Sequence[Detection] = ()
        if "proposals" in image.sections:
            proposals = image.parse("proposals", read_detections) or ()
        outputs = {
            name.removeprefix(DETECTIONS): _with_fitting_masks(
                image.parse(name, read_detections) or (), options
            )
            for name in detections
            if name == f"{DETECTIONS}{options.detector}"
        }
        proposals = _with_fitting_masks(proposals, options)
        records.append(assign_masks(record, proposals, outputs, options))
    if role is None:
        return [record_section(record) for record in records]
    jobs = [mask_jobs(record, options) for record in records]
    results = _segment(images, role, jobs)

    def section(
        masks: Any, context: tuple[StageImage, GrandRecord, Sequence[MaskJob]]
    ) -> ParsedSection:
        image, record, own = context
        size = image_size(image)
        pairs = zip(own, checked_list(masks, len(own)), strict=True)
        return record_section(
            add_masks(record, [_usable(job, mask, size, options) for job, mask in pairs], options)
        )

    return to_sections(results, [*zip(images, records, jobs, strict=True)], section)


def _segment(
    images: Sequence[StageImage], role: Segmenter, jobs: Sequence[Sequence[MaskJob]]
) -> list[Any]:
    """Call the model for the images that have boxes without a mask."""
    needed = [i for i, group in enumerate(jobs) if group]
    results: list[Any] = [[] for _ in images]
    if needed:
        outputs = role(
            [images[i].role_image() for i in needed],
            [[job.prompt for job in jobs[i]] for i in needed],
        )
        for i, masks in zip(needed, checked_list(outputs, len(needed)), strict=True):
            results[i] = masks
    return results


def _usable(
    job: MaskJob, mask: Any, size: tuple[int, int], options: MaskOptions
) -> RunLengths | None:
    """Return a mask that fits its box; None if it does not.

    Args:
        job: the box.
        mask: of the model.
        size: width and height of the image.
        options: smallest overlap.

    Raises:
        OutputError: it is no mask of the size of the image.
    """
    check_mask(mask, size)
    return mask if _fits(mask, job.box, options) else None


def _fits(mask: Any, box: Box, options: MaskOptions) -> bool:
    """Whether a mask is not empty, and its box overlaps another one enough."""
    compressed: Any = mask if isinstance(mask["counts"], str) else rle.compress(mask)
    x, y, width, height = map(float, toBbox(compressed))
    if not width or not height:
        return False
    return inclusive_iou((x, y, x + width, y + height), box) >= options.min_box_iou


def _with_fitting_masks(
    detections: Sequence[Detection], options: MaskOptions
) -> Sequence[Detection]:
    """Return the detections whose masks can be used; the released code uses all."""
    if not options.min_box_iou:
        return detections
    return [x for x in detections if x.mask is not None and _fits(x.mask, x.box, options)]

"""Level 2: captions, the objects that their phrases name, descriptions, labels and depth.

image -> captions/* -> phrases -> phrase_boxes
fusion, captions, phrase_boxes -> links -> region_attributes -> label_choices -> objects
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from glamm_jax.grand.attributes import describe_objects, objects_to_describe
from glamm_jax.grand.labels import choose_labels, label_questions
from glamm_jax.grand.levels.sections import (
    OutputError,
    available,
    checked_detection,
    checked_list,
    checked_text,
    image_size,
    read_depth,
    read_record,
    record_section,
    to_sections,
)
from glamm_jax.grand.links import link_phrases
from glamm_jax.grand.options import AttributeOptions, LabelOptions, LinkOptions, PhraseOptions
from glamm_jax.grand.phrases import (
    NounPhrase,
    PhraseBox,
    choose_boxes,
    extract_phrases,
    parser_text,
)
from glamm_jax.grand.record import GrandObject, GrandRecord, changed
from glamm_jax.grand.relations import RelationOptions, find_relations
from glamm_jax.grand.roles import (
    Captioner,
    LabelChooser,
    LabelQuestion,
    ParsedText,
    PhraseGrounder,
    PhraseQuery,
    RegionCaptioner,
    RoleError,
    Tag,
    TextParser,
)
from glamm_jax.grand.stages import ParsedSection, Section, Stage, StageError, StageImage

CAPTIONS = "captions/"


def caption_stage(name: str, role: Captioner) -> Stage:
    """Return the stage of a model that writes a short caption."""
    process = partial(_caption, role=role)
    return Stage(name=CAPTIONS + name, inputs=("image",), roles=(role,), process=process)


def phrase_stage(role: TextParser, captions: Sequence[str], options: PhraseOptions) -> Stage:
    """Return the stage that extracts the phrases of the captions.

    Args:
        role: parser of texts.
        captions: names of the stages that write them.
        options: which phrases.
    """
    return Stage(
        name="phrases",
        inputs=("image",),
        optional_inputs=tuple(captions),
        settings=options,
        roles=(role,),
        process=partial(_extract, role=role, captions=tuple(captions), options=options),
    )


def phrase_box_stage(role: PhraseGrounder, options: PhraseOptions) -> Stage:
    """Return the stage that finds a box for each phrase."""
    return Stage(
        name="phrase_boxes",
        inputs=("image", "phrases"),
        roles=(role,),
        settings=options,
        process=partial(_ground, role=role, options=options),
    )


def link_stage(has_boxes: bool, links: LinkOptions, relations: RelationOptions) -> Stage:
    """Return the stage that links phrases to objects, and finds relations between them.

    Args:
        has_boxes: whether there is a stage that finds boxes of phrases; if not, nothing is linked.
        links: what is linked.
        relations: which relations.
    """
    return Stage(
        name="links",
        inputs=("fusion", "phrases"),
        optional_inputs=("phrase_boxes",) if has_boxes else (),
        settings={"links": links, "relations": relations},
        process=partial(_link, links=links, relations=relations),
    )


def attribute_stage(role: RegionCaptioner, options: AttributeOptions) -> Stage:
    """Return the stage that describes the objects of sufficient size."""
    return Stage(
        name="region_attributes",
        inputs=("image", "links"),
        roles=(role,),
        settings=options,
        process=partial(_describe, role=role, options=options),
    )


def label_stage(role: LabelChooser, source: str, options: LabelOptions) -> Stage:
    """Return the stage that chooses one of several labels of an object.

    Args:
        role: chooses.
        source: the stage whose objects are labelled.
        options: which objects.
    """
    return Stage(
        name="label_choices",
        inputs=("image", source),
        roles=(role,),
        settings=options,
        process=partial(_choose, role=role, source=source, options=options),
    )


def object_stage(source: str, has_labels: bool, has_depth: bool, options: LabelOptions) -> Stage:
    """Return the stage that writes labels and depth to the objects.

    Args:
        source: the stage whose objects are completed.
        has_labels: whether there is a stage that chooses labels.
        has_depth: whether there is a stage that estimates depth.
        options: of labels and depth.
    """
    labels = ("label_choices",) if has_labels else ()
    return Stage(
        name="objects",
        inputs=(source,),
        optional_inputs=(*labels, *(("depth",) if has_depth else ())),
        settings=options,
        process=partial(_complete, source=source, options=options),
    )


# ------------------------------------------------------------------ functions of the stages


def _caption(images: Sequence[StageImage], role: Captioner) -> list[Any]:
    def section(text: Any, image: StageImage) -> Section:
        caption = " ".join(checked_text(text).split())
        if not caption:
            raise OutputError("the caption is empty")
        return {"caption": caption}

    return to_sections(role([image.role_image() for image in images]), images, section)


def _extract(
    images: Sequence[StageImage],
    role: TextParser,
    captions: Sequence[str],
    options: PhraseOptions,
) -> list[Any]:
    texts = [[section["caption"] for _, section in available(captions, image)] for image in images]
    queries = [parser_text(text, options) for group in texts for text in group]
    parsed = iter(checked_list(role(queries), len(queries)) if queries else ())
    sections: list[Any] = []
    for group in texts:
        results = [next(parsed) for _ in group]
        error = next((item for item in results if isinstance(item, RoleError)), None)
        if error is not None:
            sections.append(error)
        elif any(not isinstance(item, ParsedText) for item in results):
            sections.append(StageError("output", "a parsed text is due"))
        else:
            sections.append(
                {
                    "captions": group,
                    "phrases": [
                        {"caption": i, "phrase": x.phrase, "noun": x.noun, "span": x.span}
                        for i, (text, item) in enumerate(zip(group, results, strict=True))
                        for x in extract_phrases(text, item, options)
                    ],
                }
            )
    return sections


def _read_phrases(section: Section) -> list[tuple[NounPhrase, PhraseQuery]]:
    pairs = []
    for value in section["phrases"]:
        span = None if value["span"] is None else (value["span"][0], value["span"][1])
        phrase = NounPhrase(value["noun"], value["phrase"], span)
        caption = section["captions"][value["caption"]]
        pairs.append((phrase, PhraseQuery(caption, value["phrase"], span)))
    return pairs


def _ground(
    images: Sequence[StageImage], role: PhraseGrounder, options: PhraseOptions
) -> list[Any]:
    phrases = [image.parse("phrases", _read_phrases) or [] for image in images]
    queries = [[query for _, query in group] for group in phrases]

    def section(result: Any, image: StageImage) -> Section:
        pairs = image.parse("phrases", _read_phrases) or []
        boxes = [
            [checked_detection(item) for item in checked_list(candidates)]
            for candidates in checked_list(result, len(pairs))
        ]
        chosen = choose_boxes([phrase for phrase, _ in pairs], boxes, options)
        return {
            "boxes": [
                {"bbox": x.box, "nouns": x.nouns, "phrase": x.phrase, "score": x.score}
                for x in chosen
            ]
        }

    return to_sections(role([image.role_image() for image in images], queries), images, section)


def _link(
    images: Sequence[StageImage], links: LinkOptions, relations: RelationOptions
) -> list[Any]:
    sections = []
    for image in images:
        record = _record(image, "fusion")
        result, texts = image.sections.get("phrase_boxes"), image.sections["phrases"]
        assert texts is not None
        boxes = [
            PhraseBox(tuple(x["bbox"]), tuple(x["nouns"]), x["phrase"], x["score"])
            for x in (result or {"boxes": []})["boxes"]
        ]
        record = link_phrases(record, boxes, texts["captions"], links)
        if relations.enabled:
            stated = [
                relation
                for i, text in enumerate(texts["captions"])
                for relation in find_relations(text, record.links, i, relations)
            ]
            record = changed(record, relations=tuple(stated))
        sections.append(record_section(record))
    return sections


def _describe(
    images: Sequence[StageImage], role: RegionCaptioner, options: AttributeOptions
) -> list[Any]:
    objects = [objects_to_describe(_record(x, "links"), image_size(x), options) for x in images]

    def section(texts: Any, context: tuple[StageImage, Sequence[GrandObject]]) -> ParsedSection:
        image, described = context
        replies = {
            item.id: checked_text(text)
            for item, text in zip(described, checked_list(texts, len(described)), strict=True)
        }
        record = describe_objects(_record(image, "links"), replies, image_size(image), options)
        return record_section(record)

    results = role(
        [image.role_image() for image in images], [[x.box for x in group] for group in objects]
    )
    return to_sections(results, [*zip(images, objects, strict=True)], section)


def _choose(
    images: Sequence[StageImage], role: LabelChooser, source: str, options: LabelOptions
) -> list[Any]:
    questions = [label_questions(_record(x, source), image_size(x), options) for x in images]
    results = role(
        [image.role_image() for image in images], [[*group.values()] for group in questions]
    )

    def section(tags: Any, group: Mapping[int, LabelQuestion]) -> Section:
        chosen = {}
        pairs = zip(group.items(), checked_list(tags, len(group)), strict=True)
        for (number, question), tag in pairs:
            chosen[str(number)] = _choice(question, tag)
        return {"labels": chosen}

    return to_sections(results, questions, section)


def _choice(question: LabelQuestion, tag: Any) -> str:
    if not isinstance(tag, Tag) or tag.text not in question.labels:
        raise OutputError(f"one of the labels {list(question.labels)} is due, got {tag!r}")
    return tag.text


def _complete(images: Sequence[StageImage], source: str, options: LabelOptions) -> list[Any]:
    sections = []
    for image in images:
        labels = image.sections.get("label_choices") or {"labels": {}}
        choices = {int(number): label for number, label in labels["labels"].items()}
        depth = image.parse("depth", read_depth) if "depth" in image.sections else None
        record = choose_labels(_record(image, source), choices, depth, options)
        sections.append(record_section(record))
    return sections


def _record(image: StageImage, name: str) -> GrandRecord:
    record = image.parse(name, read_record)
    assert record is not None
    return record

"""The annotations of a scene as they should be: what an annotation without errors has."""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.grand.adapters.oracle_language import (
    LAYER_SENTENCES,
    GraphItem,
    ParsedGraph,
    list_phrases,
    write_caption,
    write_context,
)
from glamm_jax.grand.record import (
    CaptionAttempt,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Relation,
)
from glamm_jax.grand.scene_graph import depth_layers
from glamm_jax.miniworld.mentions import find_mentions
from glamm_jax.miniworld.truth_folder import CaptionTruth, SceneTruth


def truth_record(truth: SceneTruth) -> GrandRecord:
    """Return annotations without errors; the dense caption is that of the oracle."""
    objects = tuple(
        GrandObject(
            i,
            item.box,
            (item.shape,),
            1.0,
            attributes=(item.description,),
            label=item.shape,
            depth=item.box_depth,
            mask=truth.run_lengths(item.counts),
            mask_source="proposal",
        )
        for i, item in enumerate(truth.objects)
    )
    links = [
        PhraseLink(caption.text[start:end].lower(), ids)
        for caption in truth.captions
        for start, end, ids in caption.phrases
    ]
    names: dict[int, list[GraphItem]] = {}
    items = [GraphItem(item.shape, item.description) for item in truth.objects]
    for item, layer in zip(
        items, depth_layers([item.box_depth for item in truth.objects]), strict=True
    ):
        names.setdefault(layer, []).append(item)
    layers = {name: names[k] for k, name in enumerate(LAYER_SENTENCES) if k in names}
    place = ", ".join(truth.landmark)
    text = write_caption(ParsedGraph(layers, place))
    attempt = CaptionAttempt(text, checklist=tuple(list_phrases(text).splitlines()))
    return GrandRecord(
        objects=objects,
        landmark=dict(zip(("category", "fine_category"), truth.landmark, strict=True)),
        captions=tuple(caption.text for caption in truth.captions),
        links=tuple(dict.fromkeys(links)),
        linked_ids=tuple(sorted({i for link in links for i in link.object_ids})),
        relations=_relations(truth.captions),
        id_counter=len(objects),
        short_captions=tuple(_grounded(truth, caption.text) for caption in truth.captions),
        dense_caption=_grounded(truth, text),
        dense_source="llm",
        attempts=(attempt,),
        verified=True,
        additional_context=write_context(ParsedGraph({"": items}, place)),
    )


def _grounded(truth: SceneTruth, text: str) -> GrandCaption:
    """Return a text with a grounding for each mention; a mention of the oracle has one object."""
    groundings = []
    for mention in find_mentions(text):
        ids = tuple(i for i, item in enumerate(truth.objects) if mention.fits(item))
        boxes = tuple(truth.objects[i].box for i in ids)
        span = (mention.start, mention.end)
        groundings.append(PhraseGrounding(text[slice(*span)], span, ids, boxes))
    return GrandCaption(text, tuple(groundings))


def _relations(captions: Sequence[CaptionTruth]) -> tuple[Relation, ...]:
    """Return the relation that the first caption states, if it has two objects."""
    text, phrases = captions[0]
    if len(phrases) < 2:
        return ()
    (_, end, subjects), (start, _, objects) = phrases
    return (Relation(subjects, text[end:start].strip(), objects, 0),)

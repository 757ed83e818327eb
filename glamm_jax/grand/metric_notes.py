"""Which metrics of `scoring` do not apply to a run, or measure something else, and why.

    notes = metric_notes(run.graph_description())
    notes["relation_recall"].applies, notes["relation_recall"].reason

A run without a model has nothing that this model gives; an option may turn off a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

NO_ITEMS = "these images have nothing that it judges"

_SHORT = ("short_entity_precision", "short_entity_recall")
_LINKS = ("phrase_link_precision", "phrase_link_recall")
_RELATIONS = ("relation_precision", "relation_recall")
_SHORT_GROUNDING = ("short_grounding_precision", "short_grounding_recall")
_DENSE = (
    *("dense_grounding_precision", "dense_grounding_recall", "first_entity_precision"),
    *("final_entity_precision", "dense_captions", "verified_captions", "written_captions"),
)
# Beginnings of the names of stages: without any of them the metrics do not apply.
_NEEDED: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (("landmark",), "a landmark classifier", ("landmark_accuracy",)),
    (("depth",), "a depth estimator", ("depth_layer_accuracy",)),
    (("captions/",), "a captioner", (*_SHORT, *_LINKS, *_RELATIONS, *_SHORT_GROUNDING)),
    (("phrase_boxes",), "a phrase grounder", (*_LINKS, *_RELATIONS, *_SHORT_GROUNDING)),
    (("dense_caption",), "a language model", _DENSE),
)


class MetricNote(NamedTuple):
    """What has to be known about a metric of a run.

    Attributes:
        applies: whether its value means anything.
        reason: why not, or what it measures instead.
    """

    applies: bool
    reason: str


def metric_notes(stages: Sequence[Mapping[str, Any]]) -> dict[str, MetricNote]:
    """Return notes by metric; a metric without a note applies as `METRICS` says.

    Args:
        stages: as `AnnotationRun.graph_description` gives them.
    """
    notes: dict[str, MetricNote] = {}
    for metrics, note in _notes({stage["name"]: stage["settings"] for stage in stages}):
        for metric in metrics:
            notes.setdefault(metric, note)
    return notes


def _notes(settings: Mapping[str, Any]) -> Iterator[tuple[Iterable[str], MetricNote]]:
    for beginnings, role, metrics in _NEEDED:
        if not any(name.startswith(beginnings) for name in settings):
            yield metrics, MetricNote(False, f"the run has no {role.partition(' ')[2]}")
    if not _option(settings, "links", "relations", "enabled"):
        reason = "relations.enabled is false, as in preset released: none are looked for"
        yield _RELATIONS, MetricNote(False, reason)
    if not _option(settings, "dense_caption", "verification", "enabled"):
        reason = "verification.enabled is false, as in preset released: no caption is verified"
        yield ("verified_captions",), MetricNote(False, reason)
        reason = "not verified, so that it is the first complete answer"
        yield ("final_entity_precision",), MetricNote(True, reason)
    if not _option(settings, "caption_grounding", "words"):
        reason = "grounding.words is false, as in preset released: a capital letter is not found"
        yield ("short_grounding_recall",), MetricNote(True, reason)


def _option(settings: Mapping[str, Any], stage: str, *names: str) -> bool:
    """Return an option of a stage; True if there is no such stage."""
    value = settings.get(stage, True)
    for name in names:
        value = value.get(name, True) if isinstance(value, Mapping) else True
    return bool(value)

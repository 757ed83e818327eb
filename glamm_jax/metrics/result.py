"""Results of metrics: values of all items, contributions of single items, and irregularities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from glamm_jax.errors import GLaMMError

# compat: what the original code computes, quirks included. strict: what the definition says.
Mode = Literal["compat", "strict"]
MODES: tuple[Mode, ...] = get_args(Mode)


class MetricError(GLaMMError):
    """A metric cannot be computed. The message says what is wrong and what to do."""


class Irregularities:
    """Irregularities of the input by kind, each with the ids of its items in insertion order."""

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, None]] = {}

    def add(self, kind: str, ids: Iterable[str] = ()) -> None:
        """Add items with an irregularity; one that concerns the complete split has no items."""
        self._ids.setdefault(kind, {}).update(dict.fromkeys(ids))

    def add_if(self, irregular: object, kind: str, item_id: str) -> None:
        """Add an item if it is irregular.

        Args:
            irregular: true if the item is irregular.
            kind: of the irregularity.
            item_id: id of the item.
        """
        if irregular:
            self.add(kind, (item_id,))

    def add_id_mismatches(
        self, predictions: Mapping[str, object], references: Mapping[str, object]
    ) -> None:
        """Add the ids that only predictions or only references have, and an empty split."""
        unknown = [name for name in predictions if name not in references]
        missing = [name for name in references if name not in predictions]
        for kind, names in (("unknown prediction", unknown), ("missing prediction", missing)):
            if names:
                self.add(kind, names)
        if not references:
            self.add("empty split")

    def as_dict(self) -> dict[str, tuple[str, ...]]:
        """Return them in the form of `MetricResult.notes`."""
        return {kind: tuple(ids) for kind, ids in self._ids.items()}


@dataclass(frozen=True)
class MetricResult:
    """The values of one or more metrics. `a | b` joins the results of different metrics.

    Attributes:
        scores: metric -> value over all items; in 0 to 1 as a rule (CIDEr reaches 10).
        per_item: item id -> column -> what the item contributes. If a metric is the mean of a
            column, the column has the metric's name.
        ratios: metric -> (numerator column, denominator column), for metrics that are ratios of
            sums over the items.
        notes: kind of irregularity -> ids of its items, such as "missing prediction" or "sizes
            disagree"; without ids if it concerns the complete split, such as "empty split".
            docs/metrics.md lists the kinds.
    """

    scores: Mapping[str, float]
    per_item: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __or__(self, other: MetricResult) -> MetricResult:
        """Return both results joined; metrics, columns and notes of `other` come second."""
        ids = dict.fromkeys((*self.per_item, *other.per_item))
        per_item = {
            name: {**self.per_item.get(name, {}), **other.per_item.get(name, {})} for name in ids
        }
        notes = dict(self.notes)
        for kind, names in other.notes.items():
            notes[kind] = tuple(dict.fromkeys((*notes.get(kind, ()), *names)))
        scores, ratios = {**self.scores, **other.scores}, {**self.ratios, **other.ratios}
        return MetricResult(scores, per_item, ratios, notes)

"""What scoring gives back: figures of all items, what each contributes, and what was irregular."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from glamm_jax.errors import GLaMMError

# compat: the original's numbers, its quirks included. strict: what the metric's definition says.
Mode = Literal["compat", "strict"]
MODES: tuple[Mode, ...] = get_args(Mode)


class MetricError(GLaMMError):
    """Something cannot be scored. Says what, and what to do about it."""


class Irregularities:
    """Irregularities by kind, each with the ids of its items in the order of their coming."""

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, None]] = {}

    def add(self, kind: str, ids: Iterable[str] = ()) -> None:
        """A kind of irregularity and its items; one of the whole split has none."""
        self._ids.setdefault(kind, {}).update(dict.fromkeys(ids))

    def add_if(self, irregular: object, kind: str, name: str) -> None:
        """Add an item where it is irregular."""
        if irregular:
            self.add(kind, (name,))

    def add_unknown(self, said: Mapping[str, object], true: Mapping[str, object]) -> None:
        """Compare the ids of predictions and truth, and see whether there is a truth at all."""
        unknown = [name for name in said if name not in true]
        missing = [name for name in true if name not in said]
        for kind, names in (("unknown prediction", unknown), ("missing prediction", missing)):
            if names:
                self.add(kind, names)
        if not true:
            self.add("empty split")

    def as_dict(self) -> dict[str, tuple[str, ...]]:
        """As `Scored.notes` wants them."""
        return {kind: tuple(ids) for kind, ids in self._ids.items()}


@dataclass(frozen=True)
class MetricResult:
    """The outcome of one metric, or of several joined by `|`.

    scores: figures of all items; shares, as a rule in 0 to 1 (CIDEr reaches 10).
    each: item id -> column -> value: what the item contributes. Where a figure is the mean of a
        column, the column has the figure's name; where it is a ratio of sums, `ratios` has
        figure -> (column above, column below).
    notes: kind of irregularity -> the ids of its items: "missing prediction", "sizes disagree";
        no id where it concerns all: "empty split". docs/metrics.md lists them.
    """

    scores: Mapping[str, float]
    per_item: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __or__(self, other: MetricResult) -> MetricResult:
        """Both outcomes side by side; figures, columns and notes of the other come second."""
        ids = dict.fromkeys((*self.per_item, *other.per_item))
        each = {
            name: {**self.per_item.get(name, {}), **other.per_item.get(name, {})} for name in ids
        }
        notes = dict(self.notes)
        for kind, names in other.notes.items():
            notes[kind] = tuple(dict.fromkeys((*notes.get(kind, ()), *names)))
        scores, ratios = {**self.scores, **other.scores}, {**self.ratios, **other.ratios}
        return MetricResult(scores, each, ratios, notes)

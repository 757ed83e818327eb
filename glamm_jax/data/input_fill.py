"""How much of a batch's quotas is filled. What is not filled is padding, which costs the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class QuotaFill(NamedTuple):
    """A quota of a batch: `rows`, `images`, `masks`, ...; `tokens` and `targets` of all rows.

    Attributes:
        used: what samples fill.
        available: what the batch has.
    """

    used: int
    available: int

    @property
    def share(self) -> float:
        """The share that is filled."""
        return self.used / self.available


InputFill = dict[str, QuotaFill]  # by the quota's name; none for those that the batch does not have


def add_fills(fills: Iterable[InputFill]) -> InputFill:
    """Return the fill of several batches or batch slices together."""
    total: InputFill = {}
    for fill in fills:
        for name, quota in fill.items():
            before = total.get(name, QuotaFill(0, 0))
            total[name] = QuotaFill(before.used + quota.used, before.available + quota.available)
    return total

"""Samples one after another fill batches of a fixed shape, all tasks together.

Each part of a batch has its quota: rows, images, slots of SAM, slots of the region encoder, boxes,
masks. A sample for which one of them has run out waits for the next batch, the longest waiting
first; meanwhile others go ahead that need nothing of it. A batch is closed when its rows or images
are used up, or when `max_deferred` samples wait. What could never fit is left out, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.collate import Parts, gather
from glamm_jax.data.encode import Prepared
from glamm_jax.data.packing import Expanded, Packing, Rows
from glamm_jax.data.sample import Sample
from glamm_jax.errors import GLaMMError
from glamm_jax.types import BatchShape

# What samples of a batch add up to, beside rows.
ADDED = ("images", "region_images", "regions", "grounding_images", "masks")
# So many records in a row without a usable sample mean that none will come.
PATIENCE = 1000


class DataError(GLaMMError):
    """The data gives no batches. Says what became of the records."""


class Read(NamedTuple):
    """What a position of the stream holds."""

    position: int
    source: str
    prepared: Prepared


class Candidate(NamedTuple):
    """A sample, where it was read, and what it needs of a batch."""

    position: int
    sample: Sample
    talks: list[Expanded]
    need: BatchShape


class Room:
    """What is left of a batch that is being filled."""

    def __init__(self, config: GLaMMConfig, capacity: BatchShape, packing: Packing):
        self._config, self._capacity, self._packing = config, capacity, packing
        self.taken = Parts(Rows(packing, capacity.tokens, capacity.targets, capacity.rows))

    def add(self, candidate: Candidate) -> str | None:
        """Take a sample; or the name of the part that is short, and nothing is taken."""
        used = self.taken.needed
        for name in ADDED:
            needed = getattr(used, name) + getattr(candidate.need, name)
            if needed > getattr(self._capacity, name):
                return name
        return None if self.taken.add(candidate.sample, candidate.talks) else "rows"

    @property
    def full(self) -> bool:
        """Whether no sample with a picture can be added."""
        if len(self.taken.images) >= self._capacity.images:
            return True
        rows = self.taken.rows.used
        if len(rows) < self._capacity.rows:
            return False
        left = self._capacity.tokens - min(tokens for tokens, _, _ in rows)
        return not self._packing.fill_rows or left <= self._config.clip.num_patches


class Filler:
    """Takes from a stream what fits; `position`, `waiting` and `counts` are all it remembers."""

    def __init__(
        self,
        stream: Iterator[Read],
        config: GLaMMConfig,
        capacity: BatchShape,
        packing: Packing,
        max_deferred: int,
    ):
        self.stream = stream
        self.position = 0  # of what is read next
        self.waiting: list[Candidate] = []
        self.counts: Counter[str] = Counter()
        self._config, self._capacity, self._packing = config, capacity, packing
        self._max_deferred = max_deferred

    def fill(self) -> Parts:
        """The samples of the next batch, in the order in which they were given room.

        Raises: DataError when nothing of the stream can be used.
        """
        room = Room(self._config, self._capacity, self._packing)
        self.waiting = [each for each in self.waiting if room.add(each) is not None]
        while not room.full and len(self.waiting) < self._max_deferred:
            each = self._next()
            short = room.add(each)
            if short is not None:
                self.counts[f"waited for {short}"] += 1
                self.waiting.append(each)
        return room.taken

    def candidate(self, position: int, sample: Sample) -> Candidate:
        """A sample with what it needs."""
        alone = gather([sample], self._config, self._packing, self._capacity)
        talks = [placed.talk for placed in alone.placed]
        return Candidate(position, sample, talks, alone.needed)

    def _next(self) -> Candidate:
        """The next sample that a batch can hold."""
        for _ in range(PATIENCE):
            read = next(self.stream)
            self.position = read.position + 1
            self.counts.update(f"{read.source}, {note}" for note in read.prepared.notes)
            if read.prepared.sample is None:
                continue
            candidate = self.candidate(read.position, read.prepared.sample)
            over = [
                f.name
                for f in fields(BatchShape)
                if getattr(candidate.need, f.name) > getattr(self._capacity, f.name)
            ]
            if not over:
                return candidate
            self.counts[f"{read.source}, dropped: more {', '.join(over)} than a batch has"] += 1
        raise DataError(
            f"the last {PATIENCE} records gave nothing that fits into a batch: "
            + "; ".join(f"{number} x {name}" for name, number in self.counts.most_common())
        )

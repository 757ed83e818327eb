"""Conversations expanded, and arranged in the rows of a batch.

    row      [1, 89, <im_start>, IMAGE, <im_end>, 12, <bbox>, 7, [SEG]]        one id an image
    expanded [1, 89, <im_start>, p0 p1 ... p575, <im_end>, 12, <bbox>, 7, [SEG]]

    alone           [prefix, talk 1] [prefix, talk 2] [other prefix, talk]
    share_prefix    [prefix, talk 1, talk 2]          [other prefix, talk]
    fill_rows, too  [prefix, talk 1, talk 2, other prefix, talk]

A prefix is everything up to the end of the image. Each conversation keeps the positions that it
has alone, and sees its prefix and itself, so packing changes no number; a shared image is computed
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.sample import Row
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID

FILLER = -1  # no token: embeds as zero


class Packing(NamedTuple):
    """How conversations share rows. See above; neither: every conversation has its own."""

    share_prefix: bool = False
    fill_rows: bool = False


@dataclass
class Expanded:
    """A row with its image placeholders expanded."""

    token_ids: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    patches: np.ndarray  # index of the patch that stands here, or -1
    regions: np.ndarray  # positions of <bbox>
    emitting: np.ndarray  # positions whose hidden state emits a [SEG]
    learned: np.ndarray  # positions whose hidden state predicts a token that is learned

    @property
    def prefix(self) -> int:
        """Length of everything up to the end of the first image; 0 without one."""
        starts = np.flatnonzero(self.patches == 0)
        return int(starts[0] + self.patches.max() + 1) if len(starts) else 0


def expand(row: Row, config: GLaMMConfig) -> Expanded:
    """Put `num_patches` positions in the place of each IMAGE_ID.

    A sample has one image, so a second IMAGE_ID in a row shows the same picture again.

    The validity of ids is extended on the LEFT by what the images add, as in the original (trap 7):
    an unknown word in front of the image hides a patch instead of itself. Rows are right-padded
    with the pad id, which is also the unknown word's (trap 8).
    """
    ids = np.asarray(row.token_ids, np.int64)
    patches = config.clip.num_patches
    is_word = ids != IMAGE_ID
    lengths = np.where(is_word, 1, patches)
    start = np.cumsum(lengths) - lengths
    total, words = int(lengths.sum()), start[is_word]
    expanded = np.full(total, FILLER, np.int32)
    expanded[words] = ids[is_word]
    labels = np.full(total, IGNORE_ID, np.int32)
    labels[words] = np.asarray(row.labels)[is_word]
    patch = np.full(total, -1, np.int32)
    for first in start[~is_word]:
        patch[first : first + patches] = np.arange(patches)
    valid = np.concatenate([np.ones(total - len(ids), bool), ids != config.tokens.pad])
    # The state that emits a [SEG] is the one before it (trap 2). It is found in the expanded row,
    # so any grid and any place of the image work (repairs trap 1, equal where the original works).
    seg = np.flatnonzero(ids == config.tokens.seg)
    return Expanded(
        expanded,
        valid,
        labels,
        patch,
        start[ids == config.tokens.region].astype(np.int32),
        (start[seg[seg > 0]] - 1).astype(np.int32),
        np.flatnonzero(labels[1:] != IGNORE_ID),
    )


@dataclass
class Group:
    """Conversations of one sample side by side in a row, behind a common prefix."""

    members: list[int]  # numbers of the sample's rows
    prefix: int  # length of what they share
    length: int
    targets: int


def arrange(rows: Sequence[Expanded], packing: Packing, tokens: int, targets: int) -> list[Group]:
    """The conversations of one sample in groups, none of which exceeds a row.

    A row with an id that nobody sees stays alone, as it would hide a patch of the image (trap 7),
    and so does one that speaks of a region in front of the image.
    """
    groups: list[Group] = []
    for number, row in enumerate(rows):
        length, learned = len(row.token_ids), len(row.learned)
        prefix = row.prefix if packing.share_prefix and _may_share(row) else 0
        for group in groups if prefix else ():
            fits = group.length + length - prefix <= tokens and group.targets + learned <= targets
            same = group.prefix == prefix and np.array_equal(
                rows[group.members[0]].token_ids[:prefix], row.token_ids[:prefix]
            )
            if fits and same:
                group.members.append(number)
                group.length += length - prefix
                group.targets += learned
                break
        else:
            groups.append(Group([number], prefix, length, learned))
    return groups


def _may_share(row: Expanded) -> bool:
    return bool(row.valid.all() and (row.regions >= row.prefix).all())


class Place(NamedTuple):
    """Where a conversation stands: its row, the place there of each of its tokens, and the
    segments of itself and of its prefix (-1: it shares none)."""

    row: int
    places: np.ndarray
    segment: int
    prefix_segment: int
    prefix: int  # length of it


@dataclass
class Rows:
    """Rows that are being filled, each with the tokens, targets and segments that it holds."""

    packing: Packing
    tokens: int  # room of a row
    targets: int
    limit: int | None = None  # number of rows
    used: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, rows: Sequence[Expanded]) -> list[Place] | None:
        """Places of a sample's conversations; None when there is no room for all of them."""
        before, found = list(self.used), [Place(-1, np.zeros(0), -1, -1, 0)] * len(rows)
        for group in arrange(rows, self.packing, self.tokens, self.targets):
            row = self._row_for(group)
            if row is None:
                self.used = before
                return None
            for number, place in self._put(group, rows, row):
                found[number] = place
        return found

    def _row_for(self, group: Group) -> int | None:
        """The first row with room; a new one, unless there are as many as there may be."""
        for i, (tokens, targets, _) in enumerate(self.used if self.packing.fill_rows else ()):
            if tokens + group.length <= self.tokens and targets + group.targets <= self.targets:
                return i
        if self.limit is not None and len(self.used) >= self.limit:
            return None
        self.used.append((0, 0, 0))
        return len(self.used) - 1

    def _put(self, group: Group, rows: Sequence[Expanded], row: int) -> list[tuple[int, Place]]:
        start, targets, segments = self.used[row]
        shared = group.prefix if len(group.members) > 1 else 0
        places, end = [], start + shared
        for i, number in enumerate(group.members):
            own = len(rows[number].token_ids) - shared
            where = np.concatenate([start + np.arange(shared), end + np.arange(own)])
            segment = segments + i + bool(shared)
            place = Place(row, where, segment, segments if shared else -1, shared)
            places.append((number, place))
            end += own
        self.used[row] = (end, targets + group.targets, segments + len(places) + bool(shared))
        return places

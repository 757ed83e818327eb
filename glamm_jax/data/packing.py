"""Expand image tokens, and pack conversations into the rows of a batch.

    tokenized [1, 89, <im_start>, IMAGE, <im_end>, 12, <bbox>, 7, [SEG]]       one id an image
    expanded  [1, 89, <im_start>, p0 p1 ... p575, <im_end>, 12, <bbox>, 7, [SEG]]

    unpacked        [prefix, conversation 1] [prefix, conversation 2] [other prefix, conversation]
    share_prefix    [prefix, conversation 1, conversation 2]          [other prefix, conversation]
    + fill_rows     [prefix, conversation 1, conversation 2, other prefix, conversation]

A prefix is everything up to the end of the image. A conversation keeps the positions that it has in
a row of its own, and attends to its prefix and to itself, so packing changes no result; a shared
image is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.encode import TokenizedConversation
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID

FILLER_ID = -1  # no token: embeds as zero


class Packing(NamedTuple):
    """How conversations share rows; by default each has a row of its own.

    Attributes:
        share_prefix: conversations about one image share a row behind it.
        fill_rows: images share a row while they fit.
    """

    share_prefix: bool = False
    fill_rows: bool = False


UNPACKED = Packing()


@dataclass
class ExpandedConversation:
    """A conversation whose image tokens are expanded to patches; arrays of its length, or indices.

    Attributes:
        token_ids: FILLER_ID at patches.
        valid: False is never attended to.
        labels: IGNORE_ID where nothing is predicted.
        patches: index of the patch at this position; -1: none.
        region_positions: positions of `<bbox>`.
        seg_positions: positions whose hidden state emits a [SEG].
        target_positions: positions whose hidden state predicts a label.
    """

    token_ids: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    region_positions: np.ndarray
    seg_positions: np.ndarray
    target_positions: np.ndarray

    @property
    def prefix(self) -> int:
        """Length of everything up to the end of the first image; 0 without one."""
        starts = np.flatnonzero(self.patches == 0)
        return int(starts[0] + self.patches.max() + 1) if len(starts) else 0

    @property
    def can_share_prefix(self) -> bool:
        """Whether the prefix means the same to other conversations.

        An invalid id would hide a patch of the image (quirk 7), and a region in front of the image
        would lie in the shared part.
        """
        return bool(self.valid.all() and (self.region_positions >= self.prefix).all())


def expand(conversation: TokenizedConversation, config: GLaMMConfig) -> ExpandedConversation:
    """Replace each IMAGE_ID by `num_patches` positions.

    A sample has one image, so a second IMAGE_ID shows the same image again.

    The validity of the ids is extended on the LEFT by the patches, as in the original (quirk 7): an
    unknown word in front of the image hides a patch instead of itself. Rows are padded on the right
    with the pad id, which is also that of the unknown word (quirk 8).
    """
    ids = np.asarray(conversation.token_ids, np.int64)
    num_patches = config.clip.num_patches
    is_text = ids != IMAGE_ID
    lengths = np.where(is_text, 1, num_patches)
    starts = np.cumsum(lengths) - lengths
    total, text_positions = int(lengths.sum()), starts[is_text]
    token_ids = np.full(total, FILLER_ID, np.int32)
    token_ids[text_positions] = ids[is_text]
    labels = np.full(total, IGNORE_ID, np.int32)
    labels[text_positions] = np.asarray(conversation.labels)[is_text]
    patches = np.full(total, -1, np.int32)
    for start in starts[~is_text]:
        patches[start : start + num_patches] = np.arange(num_patches)
    valid = np.concatenate([np.ones(total - len(ids), bool), ids != config.tokens.pad])
    # A [SEG] is emitted by the hidden state one position before it (quirk 2). It is located in the
    # expanded row, so any grid and any place of the image work (repairs quirk 1).
    seg = np.flatnonzero(ids == config.tokens.seg)
    return ExpandedConversation(
        token_ids,
        valid,
        labels,
        patches,
        region_positions=starts[ids == config.tokens.region].astype(np.int32),
        seg_positions=(starts[seg[seg > 0]] - 1).astype(np.int32),
        target_positions=np.flatnonzero(labels[1:] != IGNORE_ID),
    )


class Placement(NamedTuple):
    """Where a conversation is in the batch.

    Attributes:
        row: index of its row.
        positions: position in the row of each of its tokens.
        segment: attention segment of its own tokens.
        prefix_segment: segment of its prefix; -1: the prefix is not shared.
        prefix: length of the shared prefix.
    """

    row: int
    positions: np.ndarray
    segment: int
    prefix_segment: int
    prefix: int


@dataclass
class _PrefixGroup:
    """Conversations of one sample that share a row behind a common prefix."""

    members: list[int]  # indices among the sample's conversations
    prefix: int
    length: int
    num_targets: int


class _RowUse(NamedTuple):
    """What is used of a row."""

    tokens: int = 0
    targets: int = 0
    segments: int = 0


@dataclass
class RowPacker:
    """Packs conversations into rows, first fit.

    Attributes:
        packing: how conversations share rows.
        tokens: length of a row.
        targets: supervised positions of a row.
        max_rows: None: as many as are needed.
        used: what is used of each row.
    """

    packing: Packing
    tokens: int
    targets: int
    max_rows: int | None = None
    used: list[_RowUse] = field(default_factory=list)

    def add(self, conversations: Sequence[ExpandedConversation]) -> list[Placement] | None:
        """Place the conversations of one sample; None if there is no room for all of them."""
        before = list(self.used)
        placements: dict[int, Placement] = {}
        for group in self._prefix_groups(conversations):
            row = self._row_for(group)
            if row is None:
                self.used = before
                return None
            placements |= self._place(group, conversations, row)
        return [placements[i] for i in range(len(conversations))]

    def _prefix_groups(self, conversations: Sequence[ExpandedConversation]) -> list[_PrefixGroup]:
        """Group the conversations of one sample by prefix; no group is longer than a row."""
        groups: list[_PrefixGroup] = []
        for i, conversation in enumerate(conversations):
            length, num_targets = len(conversation.token_ids), len(conversation.target_positions)
            may_share = self.packing.share_prefix and conversation.can_share_prefix
            prefix = conversation.prefix if may_share else 0
            for group in groups if prefix else ():
                first = conversations[group.members[0]]
                if (
                    group.length + length - prefix <= self.tokens
                    and group.num_targets + num_targets <= self.targets
                    and group.prefix == prefix
                    and np.array_equal(first.token_ids[:prefix], conversation.token_ids[:prefix])
                ):
                    group.members.append(i)
                    group.length += length - prefix
                    group.num_targets += num_targets
                    break
            else:
                groups.append(_PrefixGroup([i], prefix, length, num_targets))
        return groups

    def _row_for(self, group: _PrefixGroup) -> int | None:
        """The first row with room for a group, or a new one; None if there are no more rows."""
        for row, used in enumerate(self.used if self.packing.fill_rows else ()):
            if (
                used.tokens + group.length <= self.tokens
                and used.targets + group.num_targets <= self.targets
            ):
                return row
        if self.max_rows is not None and len(self.used) >= self.max_rows:
            return None
        self.used.append(_RowUse())
        return len(self.used) - 1

    def _place(
        self, group: _PrefixGroup, conversations: Sequence[ExpandedConversation], row: int
    ) -> dict[int, Placement]:
        used = self.used[row]
        shared = group.prefix if len(group.members) > 1 else 0
        has_prefix = bool(shared)
        prefix_positions, end = used.tokens + np.arange(shared), used.tokens + shared
        placements = {}
        for number, i in enumerate(group.members):
            length = len(conversations[i].token_ids) - shared
            placements[i] = Placement(
                row,
                np.concatenate([prefix_positions, end + np.arange(length)]),
                segment=used.segments + number + has_prefix,
                prefix_segment=used.segments if has_prefix else -1,
                prefix=shared,
            )
            end += length
        segments = used.segments + len(placements) + has_prefix
        self.used[row] = _RowUse(end, used.targets + group.num_targets, segments)
        return placements

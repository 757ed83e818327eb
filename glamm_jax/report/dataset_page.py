"""Page about records as training uses them: sampled conversations, statistics, and losses.

Conversations of all tasks are sampled from every record, tokenized and truncated exactly as for a
batch; tasks without annotations are left out. Losses are listed separately for the conversion to
records (its defects) and for the encoding of conversations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data import rle
from glamm_jax.data.conversation_sampler import NO_ANNOTATION, sample_conversations
from glamm_jax.data.encode import encode_example
from glamm_jax.data.preprocess import ImageError
from glamm_jax.data.record import Record
from glamm_jax.data.record_shards import ShardError
from glamm_jax.data.record_sources import RecordSource
from glamm_jax.report.conversation_cards import conversation_card
from glamm_jax.report.html_page import Card, Page, TextMark
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer
from glamm_jax.types import BatchShape, Example

UNREADABLE_RECORD = "unreadable record"
UNREADABLE_IMAGE = "unreadable image"
UNREADABLE_MASK = "unreadable mask"
CONVERSATION_TASKS: tuple[ConversationTask, ...] = get_args(ConversationTask)
TITLES: dict[str, str] = {
    "gcg": "Grounded captions",
    "referring": "Referring expressions",
    "semantic": "Classes",
    "grounding": "Phrase grounding",
    "region": "Region descriptions",
    "caption": "Captions",
    "vqa": "Questions and answers",
}
LEGEND = (
    "A dog [SEG] has the colour of its mask, region1 <bbox> that of its box. The model predicts a "
    "mask for each [SEG]; each <bbox> refers to a region in the prompt."
)
ProgressBar = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True)
class RecordCollection:
    """Records of one split.

    Attributes:
        name: heading of its section.
        records: the records.
        limit: maximum number of records to read; they are evenly spaced.
        defects: kind -> places, of everything dropped or corrected in the conversion to records.
    """

    name: str
    records: RecordSource
    limit: int
    defects: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def selected_indices(self) -> list[int]:
        """Indices of the records to read."""
        size = len(self.records)
        step = max(size / self.limit, 1)
        return [int(i * step) for i in range(min(self.limit, size))]


@dataclass(frozen=True)
class ConversationSampling:
    """How conversations are sampled and truncated.

    Attributes:
        tokenizer: tokenizer of the model.
        model: its number of patches and its special tokens are used.
        batch_shape: limits of tokens and targets.
        conversation: sampling options.
    """

    tokenizer: Tokenizer
    model: GLaMMConfig
    batch_shape: BatchShape
    conversation: ConversationConfig = field(default_factory=ConversationConfig)


def build_dataset_page(
    title: str,
    collections: Sequence[RecordCollection],
    num_samples: int,
    sampling: ConversationSampling,
    progress: ProgressBar = lambda indices, name: indices,
) -> Page:
    """Build the page.

    Args:
        title: of the page.
        collections: records; each has a section.
        num_samples: maximum number of conversations of each task to show in a section.
        sampling: how conversations are sampled.
        progress: called with the record indices and the name of a collection; returns the indices
            to iterate over, such as a progress bar.
    """
    total = sum(len(collection.records) for collection in collections)
    page = Page(title, f"{total:,} images; hover over an image to see it without masks")
    marks = []
    for text, colour, is_token in (
        ("A dog", 0, False),
        ("[SEG]", 0, True),
        ("region1", 1, False),
        ("<bbox>", 1, True),
    ):
        start = LEGEND.index(text)
        marks.append(TextMark(start, start + len(text), colour, is_token))
    page.paragraph(LEGEND, marks)
    summaries = [
        _CollectionSummary(item, sampling, progress(item.selected_indices, item.name))
        for item in collections
    ]
    if len(summaries) > 1:
        page.table(*_overview_table(summaries))
    for summary in summaries:
        page.section(summary.collection.name)
        page.facts(summary.counts())
        for task in summary.tasks:
            page.section(TITLES[task], level=3)
            page.cards(summary.cards(task, num_samples))
        page.section("Statistics", level=3)
        page.histograms(summary.values)
        page.section("Dropped or corrected in the conversion to records", level=3)
        page.counts_by_kind(summary.collection.defects)
        page.section("Dropped or truncated in training", level=3)
        page.counts_by_kind(summary.notes)
    return page


class _CollectionSummary:
    """Statistics of the selected records of a collection and of the sampled conversations.

    Attributes:
        collection: the records.
        values: title of a histogram -> values.
        notes: kind of loss -> places.
    """

    def __init__(
        self,
        collection: RecordCollection,
        sampling: ConversationSampling,
        indices: Iterable[int],
    ):
        self.collection = collection
        self.values: dict[str, list[float]] = {
            **{f"{title}: tokens": [] for title in TITLES.values()},
            "Target tokens per conversation": [],
            "Masks per conversation": [],
            "Boxes per conversation": [],
            "Annotations per image": [],
            "Regions per image": [],
            "Masks per image": [],
            "Mask area, % of the image": [],
            "Longer side of the image, pixels": [],
        }
        self.notes: dict[str, list[str]] = {}
        self._sampling, self._num_read = sampling, 0
        self._record_indices: dict[str, list[int]] = {task: [] for task in CONVERSATION_TASKS}
        self._counts: Counter[str] = Counter()
        for index in indices:
            self._add_record(index)
        for task in CONVERSATION_TASKS:
            if not self._record_indices[task]:
                self.notes.pop(f"{task}: {NO_ANNOTATION}", None)

    @property
    def tasks(self) -> list[ConversationTask]:
        """Tasks with at least one conversation."""
        return [task for task in CONVERSATION_TASKS if self._record_indices[task]]

    def num_conversations(self, task: str) -> int:
        """Return the number of conversations of a task."""
        return len(self._record_indices[task])

    def counts(self) -> dict[str, int]:
        """Return the numbers of images, conversations, regions, masks and boxes."""
        size = len(self.collection.records)
        num_read = {"images examined": self._num_read} if self._num_read < size else {}
        conversations = {TITLES[task].lower(): self.num_conversations(task) for task in self.tasks}
        return {"images": size, **num_read, **conversations, **self._counts}

    def cards(self, task: ConversationTask, num_samples: int) -> list[Card]:
        """Return cards of evenly spaced conversations of a task."""
        indices = self._record_indices[task]
        step = max(len(indices) / num_samples, 1)
        cards = []
        for i in range(min(num_samples, len(indices))):
            record = self.collection.records[indices[int(i * step)]]
            (example,) = sample_conversations(record, (task,), self._sampling.conversation).examples
            length, num_targets, note = self._encoded_length(example)
            text = f"{length:,} tokens, {num_targets:,} targets; {note}".removesuffix("; ")
            cards.append(conversation_card(example, text))
        return cards

    def _add_record(self, index: int) -> None:
        self._num_read += 1
        try:
            record = self.collection.records[index]
        except ShardError as error:
            self._note(UNREADABLE_RECORD, str(error))
            return
        try:
            sampled = sample_conversations(record, CONVERSATION_TASKS, self._sampling.conversation)
            self._measure_record(record)
        except (ImageError, rle.MaskError) as error:
            kind = UNREADABLE_IMAGE if isinstance(error, ImageError) else UNREADABLE_MASK
            self._note(kind, f"{record.image_id}: {error}")
            return
        for note in sampled.notes:
            self._note(note, record.image_id)
        for example in sampled.examples:
            self._add_conversation(example, index)

    def _add_conversation(self, example: Example, index: int) -> None:
        """Add a conversation of the record at an index, unless it is dropped."""
        task = example.task
        length, num_targets, note = self._encoded_length(example)
        if note:
            self._note(f"{task}: {note}", example.id)
        if not length:
            return
        self._record_indices[task].append(index)
        self.values[f"{TITLES[task]}: tokens"].append(length)
        self.values["Target tokens per conversation"].append(num_targets)
        for name, items in (("Masks", example.masks), ("Boxes", example.boxes_xyxy_unit)):
            self.values[f"{name} per conversation"] += [] if items is None else [len(items)]

    def _encoded_length(self, example: Example) -> tuple[int, int, str]:
        """Return the number of tokens and of targets after encoding, and what was lost."""
        sampling, bare = self._sampling, self._sampling.conversation.bare_image
        encoded, note = encode_example(
            example, sampling.tokenizer, sampling.model, sampling.batch_shape, bare_image=bare
        )
        if encoded is None:
            return 0, 0, note
        turns, _, _ = encoded
        num_targets = int((turns.labels != IGNORE_ID).sum())
        return len(turns.ids) + sampling.model.clip.num_patches - 1, num_targets, note

    def _measure_record(self, record: Record) -> None:
        size = [record.height, record.width]
        runs = [region.mask for region in record.regions if region.mask is not None]
        areas = [100 * float(rle.decode({"size": size, "counts": x}).mean()) for x in runs]
        boxes = sum(region.box_xyxy_pixel is not None for region in record.regions)
        self._counts.update({"regions": len(record.regions), "masks": len(runs), "boxes": boxes})
        for name, values in {
            "Annotations per image": [len(record.annotations)],
            "Regions per image": [len(record.regions)],
            "Masks per image": [len(runs)],
            "Mask area, % of the image": areas,
            "Longer side of the image, pixels": [max(size)],
        }.items():
            self.values[name] += values

    def _note(self, kind: str, place: str) -> None:
        self.notes.setdefault(kind, []).append(place)


def _overview_table(
    summaries: Sequence[_CollectionSummary],
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Return header and rows of a table with a row for each collection."""
    tasks = [
        task
        for task in CONVERSATION_TASKS
        if any(summary.num_conversations(task) for summary in summaries)
    ]
    header = ["", "images", *(TITLES[task].lower() for task in tasks), "defects", "losses"]
    rows = [
        [
            summary.collection.name,
            len(summary.collection.records),
            *(summary.num_conversations(task) or "" for task in tasks),
            sum(map(len, summary.collection.defects.values())),
            sum(map(len, summary.notes.values())),
        ]
        for summary in summaries
    ]
    return header, rows

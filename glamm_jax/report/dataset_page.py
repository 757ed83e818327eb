"""A page about records as training sees them: drawn conversations, their lengths, what is left out.

Every record is asked for every task, tokenised and cut exactly as for a batch; a dataset that has
nothing for a task leaves it out. What was lost is told in two tables: on the way into the records
(the defects of their conversion), and on the way from them into training.
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
from glamm_jax.report.conversation_cards import card_of
from glamm_jax.report.html_page import Card, Page, TextMark
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer
from glamm_jax.types import BatchShape, Example

UNREADABLE = "unreadable record"
NO_PICTURE = "unreadable picture"
NO_MASKS = "unreadable mask"
ASKED_TASKS: tuple[ConversationTask, ...] = get_args(ConversationTask)
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
    "A dog [SEG] has the colour of its mask, region1 <bbox> that of its box. Behind each [SEG] the "
    "model puts a mask; <bbox> is where it is shown a region."
)
ProgressBar = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True)
class RecordCollection:
    """Records of one split. limit: so many are looked at, spread evenly over all.

    defects: kind -> where, of everything that was dropped or put right when they were made.
    """

    name: str
    records: RecordSource
    limit: int
    defects: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def chosen(self) -> list[int]:
        """The numbers of the records that are looked at."""
        size = len(self.records)
        step = max(size / self.limit, 1)
        return [int(i * step) for i in range(min(self.limit, size))]


@dataclass(frozen=True)
class ConversationSampling:
    """How conversations are drawn and cut: of a training, its tokenizer, its model and its room."""

    tokenizer: Tokenizer
    model: GLaMMConfig
    room: BatchShape
    asking: ConversationConfig = field(default_factory=ConversationConfig)


def page_of(
    title: str,
    collections: Sequence[RecordCollection],
    samples: int,
    drawing: ConversationSampling,
    watch: ProgressBar = lambda numbers, name: numbers,
) -> Page:
    """The page; `samples` conversations of each task of each collection.

    watch: what the numbers of the records of a collection go through, such as a progress bar.
    """
    total = sum(len(collection.records) for collection in collections)
    page = Page(title, f"{total:,} pictures; rest the pointer on one to see it without masks")
    _explain(page)
    looks = [_Look(each, drawing, watch(each.chosen, each.name)) for each in collections]
    if len(looks) > 1:
        _overview(page, looks)
    for look in looks:
        page.section(look.collection.name)
        page.facts(look.facts())
        for task in look.tasks:
            page.section(TITLES[task], level=3)
            page.cards(look.cards(task, samples))
        page.section("How much", level=3)
        page.histograms(look.numbers)
        _tell(page, "Left out on the way into the records", look.collection.defects)
        _tell(page, "Left out or cut on the way into training", look.notes)
    return page


class _Look:
    """What a pass over some records of a collection finds."""

    def __init__(
        self, collection: RecordCollection, drawing: ConversationSampling, numbers: Iterable[int]
    ):
        self.collection = collection
        self.numbers: dict[str, list[float]] = {
            **{f"{title}: tokens": [] for title in TITLES.values()},
            "Learned tokens of a conversation": [],
            "Masks of a conversation": [],
            "Boxes of a conversation": [],
            "Things said about a picture": [],
            "Regions of a picture": [],
            "Masks of a picture": [],
            "Area of a mask, % of its picture": [],
            "Longer side of a picture, pixels": [],
        }
        self.notes: dict[str, list[str]] = {}
        self._drawing, self._looked = drawing, 0
        self._drawn: dict[str, list[int]] = {task: [] for task in ASKED_TASKS}
        self._counts: Counter[str] = Counter()
        for number in numbers:
            self._look_at(number)
        for task in ASKED_TASKS:
            if not self._drawn[task]:
                self.notes.pop(f"{task}: {NO_ANNOTATION}", None)

    @property
    def tasks(self) -> list[ConversationTask]:
        """Those that something was drawn for."""
        return [task for task in ASKED_TASKS if self._drawn[task]]

    def drawn(self, task: str) -> int:
        """Conversations of a task."""
        return len(self._drawn[task])

    def facts(self) -> dict[str, int]:
        """What there is."""
        size = len(self.collection.records)
        looked_at = {"pictures looked at": self._looked} if self._looked < size else {}
        said = {TITLES[task].lower(): self.drawn(task) for task in self.tasks}
        return {"pictures": size, **looked_at, **said, **self._counts}

    def cards(self, task: ConversationTask, samples: int) -> list[Card]:
        """Conversations of a task, spread evenly over all that were drawn."""
        numbers = self._drawn[task]
        step = max(len(numbers) / samples, 1)
        chosen = [numbers[int(i * step)] for i in range(min(samples, len(numbers)))]
        return [self._card(self.collection.records[number], task) for number in chosen]

    def _card(self, record: Record, task: ConversationTask) -> Card:
        (example,) = sample_conversations(record, (task,), self._drawing.asking).examples
        length, learned, note = self._length(example)
        return card_of(
            example, f"{length:,} tokens, {learned:,} learned; {note}".removesuffix("; ")
        )

    def _look_at(self, number: int) -> None:
        self._looked += 1
        try:
            record = self.collection.records[number]
        except ShardError as error:
            self._note(UNREADABLE, str(error))
            return
        try:
            drawn = sample_conversations(record, ASKED_TASKS, self._drawing.asking)
            self._measure(record)
        except (ImageError, rle.MaskError) as error:
            kind = NO_PICTURE if isinstance(error, ImageError) else NO_MASKS
            self._note(kind, f"{record.image_id}: {error}")
            return
        for note in drawn.notes:
            self._note(note, record.image_id)
        for example in drawn.examples:
            self._take(example, number)

    def _take(self, example: Example, number: int) -> None:
        """A conversation that was drawn from the record of this number."""
        task = example.task
        length, learned, note = self._length(example)
        if note:
            self._note(f"{task}: {note}", example.id)
        if not length:
            return
        self._drawn[task].append(number)
        self.numbers[f"{TITLES[task]}: tokens"].append(length)
        self.numbers["Learned tokens of a conversation"].append(learned)
        for name, items in (("Masks", example.masks), ("Boxes", example.boxes_xyxy_unit)):
            self.numbers[f"{name} of a conversation"] += [] if items is None else [len(items)]

    def _length(self, example: Example) -> tuple[int, int, str]:
        """Tokens of the whole prepared conversation, how many are learned, and what happened."""
        drawing, bare = self._drawing, self._drawing.asking.bare_image
        kept, note = encode_example(
            example, drawing.tokenizer, drawing.model, drawing.room, bare_image=bare
        )
        if kept is None:
            return 0, 0, note
        patches = drawing.model.clip.num_patches
        turns, _, _ = kept
        learned = int((turns.labels != IGNORE_ID).sum())
        return len(turns.ids) + patches - 1, learned, note

    def _measure(self, record: Record) -> None:
        """What there is in a record, whatever is drawn from it."""
        size = [record.height, record.width]
        runs = [region.mask for region in record.regions if region.mask is not None]
        areas = [100 * float(rle.decode({"size": size, "counts": x}).mean()) for x in runs]
        boxes = sum(region.box_xyxy_pixel is not None for region in record.regions)
        self._counts.update({"regions": len(record.regions), "masks": len(runs), "boxes": boxes})
        for name, values in {
            "Things said about a picture": [len(record.annotations)],
            "Regions of a picture": [len(record.regions)],
            "Masks of a picture": [len(runs)],
            "Area of a mask, % of its picture": areas,
            "Longer side of a picture, pixels": [max(size)],
        }.items():
            self.numbers[name] += values

    def _note(self, kind: str, where: str) -> None:
        self.notes.setdefault(kind, []).append(where)


def _explain(page: Page) -> None:
    """What the colours mean, in the colours."""
    marks = []
    for words, colour, is_token in (
        ("A dog", 0, False),
        ("[SEG]", 0, True),
        ("region1", 1, False),
        ("<bbox>", 1, True),
    ):
        start = LEGEND.index(words)
        marks.append(TextMark(start, start + len(words), colour, is_token))
    page.paragraph(LEGEND, marks)


def _overview(page: Page, looks: Sequence[_Look]) -> None:
    """A row for each collection."""
    tasks = [task for task in ASKED_TASKS if any(look.drawn(task) for look in looks)]
    header = ["", "pictures", *(TITLES[task].lower() for task in tasks), "defects", "left out"]
    rows = [
        [
            look.collection.name,
            len(look.collection.records),
            *(look.drawn(task) or "" for task in tasks),
            sum(map(len, look.collection.defects.values())),
            sum(map(len, look.notes.values())),
        ]
        for look in looks
    ]
    page.table(header, rows)


def _tell(page: Page, title: str, found: Mapping[str, Sequence[str]]) -> None:
    page.section(title, level=3)
    page.kinds(found)

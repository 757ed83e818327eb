"""A page about records: how many, how long, what was dropped and why, and samples of every task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from glamm_jax.data import masks
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import TASKS, Annotation, Record, Region
from glamm_jax.report.html import Card, Line, Mark, Page
from glamm_jax.text.tokenizer import Tokenizer

MAX_SHOWN = 8  # expressions, classes or descriptions of one picture
MAX_NAMED = 50  # places of one kind of defect
UNREADABLE = "unreadable record"
WHAT_IS_SAID = {
    "gcg": "Grounded captions",
    "referring": "Referring expressions",
    "semantic": "Classes",
    "region": "Descriptions of regions",
    "caption": "Captions",
    "vqa": "Questions and answers",
}


@dataclass(frozen=True)
class Collection:
    """Records of one split. records: those that are looked at. size: how many there are in all.

    defects: kind -> where, of everything that was dropped or put right.
    """

    name: str
    records: Sequence[Record]
    size: int
    defects: Mapping[str, Sequence[str]] = field(default_factory=dict)


def page_of(
    title: str, collections: Sequence[Collection], samples: int, tokenizer: Tokenizer | None = None
) -> Page:
    """The page; `samples` pictures of each task of each collection.

    With a tokenizer, texts are measured in tokens, else in words.
    """
    total = sum(collection.size for collection in collections)
    page = Page(title, f"{total:,} pictures; rest the pointer on one to see it without masks")
    ruler = _Ruler(tokenizer)
    for collection in collections:
        page.section(collection.name)
        _count(page, collection)
        _tell_defects(page, collection.defects)
        _measure(page, collection.records, ruler)
        for task in TASKS:
            cards = list(_cards(collection.records, task, samples, ruler))
            if cards:
                page.section(WHAT_IS_SAID[task], level=3)
                page.cards(cards)
    return page


class _Ruler:
    """How long a text is."""

    def __init__(self, tokenizer: Tokenizer | None):
        self._tokenizer = tokenizer
        self.unit = "words" if tokenizer is None else "tokens"

    def length(self, text: str) -> int:
        """In `unit`s."""
        if self._tokenizer is None:
            return len(text.split())
        return len(self._tokenizer.encode(text, add_special=False))

    def note(self, text: str) -> str:
        """The length, for people."""
        return f"{self.length(text)} {self.unit}"


def _said(record: Record, task: str) -> list[Annotation]:
    return [annotation for annotation in record.annotations if annotation.task == task]


def _count(page: Page, collection: Collection) -> None:
    """What there is."""
    tasks = Counter(said.task for record in collection.records for said in record.annotations)
    regions = [region for record in collection.records for region in record.regions]
    facts = {"pictures": collection.size}
    if len(collection.records) < collection.size:
        facts["pictures looked at"] = len(collection.records)
    facts |= {WHAT_IS_SAID[task].lower(): tasks[task] for task in TASKS if tasks[task]}
    facts["regions"] = len(regions)
    facts["with a mask"] = sum(region.mask is not None for region in regions)
    facts["with a box"] = sum(region.box_xyxy_pixel is not None for region in regions)
    page.facts(facts)


def _tell_defects(page: Page, defects: Mapping[str, Sequence[str]]) -> None:
    """What was dropped or put right on the way here."""
    page.section("What was dropped, and why", level=3)
    if not defects:
        page.paragraph("Nothing.")
        return
    kinds = sorted(defects, key=lambda kind: -len(defects[kind]))
    page.table(("kind", "number"), [(kind, len(defects[kind])) for kind in kinds])
    for kind in kinds:
        places = list(defects[kind][:MAX_NAMED])
        if len(defects[kind]) > MAX_NAMED:
            places.append(f"and {len(defects[kind]) - MAX_NAMED:,} more")
        page.folded(f"{kind}: where", places)


def _measure(page: Page, records: Sequence[Record], ruler: _Ruler) -> None:
    """Histograms of lengths, masks and regions."""
    lengths: dict[str, list[float]] = {task: [] for task in TASKS}
    areas: list[float] = []
    for record in records:
        for said in record.annotations:
            lengths[said.task].append(ruler.length(" ".join((said.text, *said.turns))))
        areas += [
            share for region in record.regions if (share := _share(record, region)) is not None
        ]
    phrases = [
        len({(link.start, link.end) for link in said.links})
        for record in records
        for said in _said(record, "gcg")
    ]
    page.section("How much", level=3)
    page.histograms(
        {f"{WHAT_IS_SAID[task]}: {ruler.unit}": lengths[task] for task in TASKS}
        | {
            "Phrases of a grounded caption": phrases,
            "Things said about a picture": [len(record.annotations) for record in records],
            "Regions of a picture": [len(record.regions) for record in records],
            "Masks of a picture": [sum(r.mask is not None for r in x.regions) for x in records],
            "Area of a mask, % of its picture": areas,
            "Longer side of a picture, pixels": [max(x.height, x.width) for x in records],
        }
    )


def _cards(records: Sequence[Record], task: str, samples: int, ruler: _Ruler) -> Iterable[Card]:
    """Pictures of a task, spread evenly over all that have it."""
    having = [record for record in records if _said(record, task)]
    step = max(len(having) / samples, 1)
    for i in range(min(samples, len(having))):
        record = having[int(i * step)]
        try:
            yield card_of(record, task, ruler)
        except (ImageError, masks.MaskError) as error:
            blank = np.full((1, 4, 3), 128, np.uint8)
            yield Card(blank, (Line(f"cannot be shown: {error}"),), title=record.image_id)


def card_of(record: Record, task: str, ruler: _Ruler) -> Card:
    """A picture with what it says for one task. Regions have one colour in all its texts.

    Raises: ImageError or MaskError when the picture or a mask cannot be read.
    """
    said = _said(record, task)
    colours: dict[tuple[int, ...], int] = {}
    lines = []
    for annotation in said[:MAX_SHOWN]:
        if annotation.turns:
            for question, answer in zip(annotation.turns[::2], annotation.turns[1::2], strict=True):
                lines += [Line(question, speaker="Q"), Line(answer, speaker="A")]
            lines.append(Line("", note=ruler.note(" ".join(annotation.turns))))
        else:
            marks = _marks(annotation, colours)
            lines.append(Line(annotation.text, marks, note=ruler.note(annotation.text)))
    if len(said) > MAX_SHOWN:
        lines.append(Line("", note=f"and {len(said) - MAX_SHOWN} more"))
    boxed = task == "region"
    return Card(
        image=open_image(record.image),
        lines=lines,
        masks=[None if boxed else _mask(record, regions) for regions in colours],
        boxes_xyxy_pixel=[_box(record, regions, always=boxed) for regions in colours],
        title=f"{record.image_id} ({record.width} x {record.height})",
    )


def _marks(annotation: Annotation, colours: dict[tuple[int, ...], int]) -> list[Mark]:
    """Spans with the colour of what they mean, which they get when it is met first."""
    spans: dict[tuple[int, int], list[int]] = {}
    for link in annotation.links:
        whole = (link.start, link.end) == (-1, -1)
        span = (0, len(annotation.text)) if whole else (link.start, link.end)
        spans.setdefault(span, []).append(link.region)
    return [
        Mark(start, end, colours.setdefault(tuple(sorted(regions)), len(colours)))
        for (start, end), regions in sorted(spans.items())
    ]


def _share(record: Record, region: Region) -> float | None:
    """Percent of the picture that a mask covers; None where there is none that can be read."""
    try:
        return None if region.mask is None else 100 * float(_decoded(record, region.mask).mean())
    except masks.MaskError:
        return None


def _decoded(record: Record, runs: bytes) -> np.ndarray:
    return masks.decode({"size": [record.height, record.width], "counts": runs})


def _mask(record: Record, regions: Sequence[int]) -> np.ndarray | None:
    """All pixels of several regions; None where none of them has a mask."""
    found = [record.regions[i].mask for i in regions]
    decoded = [_decoded(record, runs) for runs in found if runs is not None]
    return np.any(decoded, axis=0) if decoded else None


def _box(
    record: Record, regions: Sequence[int], *, always: bool
) -> tuple[float, float, float, float] | None:
    """The box of a single region, where boxes are spoken of or there is no mask."""
    if len(regions) != 1 or not (always or record.regions[regions[0]].mask is None):
        return None
    return record.regions[regions[0]].box_xyxy_pixel

"""The page at the end of the demo: the same pictures before and after, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.item_cards import cards_of, common_question, image_loader
from glamm_jax.evaluation.items import EvaluationData, open_items
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines
from glamm_jax.evaluation.scores import SCORES, load_scores
from glamm_jax.metrics.result import Mode
from glamm_jax.miniworld.world import NEW_PLACE, NEW_SHAPE, PLACES
from glamm_jax.report.html_page import Card, Page

WHEN = ("before", "after")
SHOWN = 12  # pictures of a benchmark
MODE: Mode = "compat"  # as the paper counts
# What the report calls a figure, and its name in scores.json; an expression is asked freely.
FIGURES: dict[str, dict[str, str]] = {
    "gcg": {
        "meteor": "METEOR",
        "cider": "CIDEr",
        "ap50": "AP50",
        "miou": "mIoU",
        "recall": "recall",
    },
    "refseg": {"ciou": "free cIoU", "giou": "free gIoU"},
    "region_caption": {"meteor": "METEOR", "cider": "CIDEr"},
}
TITLES = {
    "gcg": "Grounded captions",
    "refseg": "Referring expressions",
    "region_caption": "Regions",
}


def figures(out: Path, when: str) -> dict[str, dict[str, float]]:
    """{benchmark: {figure: fraction}} of the evaluations before or after."""
    found = {}
    for benchmark, names in FIGURES.items():
        scores = load_scores(out / when / benchmark / SCORES).modes[MODE].scores
        found[benchmark] = {name: round(scores[key], 4) for name, key in names.items()}
    return found


def write_gallery(out: Path, data: EvaluationData, minutes: float) -> Path:
    """Write OUT/gallery.html: figures, then pictures; those with something new come first."""
    page = Page(
        "A world that the model had never seen",
        f"{minutes:.0f} minutes from drawing it to this page. The {NEW_SHAPE} is a new shape, "
        f"{PLACES[NEW_PLACE].stuff[-1]} a new ground. Under the pointer a picture shows no masks.",
    )
    page.section("Figures")
    _figures(page, {when: figures(out, when) for when in WHEN})
    for benchmark in FIGURES:
        page.section(TITLES[benchmark])
        asked = open_items(BENCHMARKS[benchmark], data, BENCHMARKS[benchmark].wording("ours"))
        said = {when: _predictions(out / when / benchmark) for when in WHEN}
        free = [item for item in asked.items if not item.history]
        chosen = sorted(free, key=lambda item: not _is_new(item))  # else in their order
        shown = [*islice(_one_a_picture(chosen), SHOWN)]
        question = common_question(shown)
        if question:
            page.paragraph(f"Asked: {question}")
        page.groups([*_groups(shown, said, asked.records, asks=not question)])
    path = out / "gallery.html"
    page.save(path)
    return path


def _figures(page: Page, by_when: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    rows = [
        (TITLES[benchmark], key, *(by_when[when][benchmark][name] for when in WHEN))
        for benchmark, names in FIGURES.items()
        for name, key in names.items()
    ]
    page.table(("", "figure", *WHEN), rows)
    page.paragraph("Fractions, counted as the original's code counts (CIDEr reaches 10).")


def _predictions(folder: Path) -> dict[str, Prediction]:
    return {each.id: each for each in read_lines(folder / PREDICTIONS)[0]}


def _is_new(item: Item) -> bool:
    """Whether the new shape is spoken of."""
    return any(
        NEW_SHAPE in text for text in (item.prompt, *item.reference_texts, *item.reference_phrases)
    )


def _one_a_picture(items: Sequence[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.image_id not in seen:
            seen.add(item.image_id)
            yield item


def _groups(
    items: Sequence[Item],
    said: Mapping[str, Mapping[str, Prediction]],
    records: RecordSource,
    *,
    asks: bool,
) -> Iterator[tuple[Card, ...]]:
    """Of every item three cards: before, after, the truth."""
    pictures = image_loader(records)
    for item in items:
        before, truth = cards_of(item, said["before"].get(item.id), pictures, "before", asks)
        after, _ = cards_of(item, said["after"].get(item.id), pictures, "after", asks=False)
        yield before, after, truth

"""The web page of the demo: predictions before and after training beside the references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from glamm_jax.data.record_sources import RecordSource
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.item_cards import common_prompt, image_loader, make_cards
from glamm_jax.evaluation.items import EvaluationData, open_items
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines
from glamm_jax.evaluation.scores import SCORES, load_scores
from glamm_jax.metrics.result import Mode
from glamm_jax.miniworld.world import NEW_PLACE, NEW_SHAPE, PLACES
from glamm_jax.report.html_page import Card, Page

WHEN = ("before", "after")
MAX_ITEMS = 12  # of a benchmark
MODE: Mode = "compat"  # as the paper counts
# Benchmark -> name of a metric in the report -> its name in scores.json. Expressions are evaluated
# free-running.
METRICS: dict[str, dict[str, str]] = {
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


def read_metrics(out: Path, when: str) -> dict[str, dict[str, float]]:
    """Return {benchmark: {metric: fraction}} of the evaluations before or after training."""
    metrics = {}
    for benchmark, names in METRICS.items():
        scores = load_scores(out / when / benchmark / SCORES).modes[MODE].scores
        metrics[benchmark] = {name: round(scores[key], 4) for name, key in names.items()}
    return metrics


def write_gallery(out: Path, data: EvaluationData, minutes: float) -> Path:
    """Write OUT/gallery.html: metrics, then items, those with the new shape first.

    Args:
        out: folder of the demo.
        data: of the evaluations.
        minutes: run time of the demo.

    Returns:
        The path of the page.
    """
    page = Page(
        "Learning a new world",
        f"{minutes:.0f} minutes from rendering it to this page. The {NEW_SHAPE} is a new shape, "
        f"{PLACES[NEW_PLACE].stuff[-1]} a new ground. Hover over an image to hide its masks.",
    )
    page.section("Metrics")
    metrics = {when: read_metrics(out, when) for when in WHEN}
    rows = [
        (TITLES[benchmark], key, *(metrics[when][benchmark][name] for when in WHEN))
        for benchmark, names in METRICS.items()
        for name, key in names.items()
    ]
    page.table(("", "metric", *WHEN), rows)
    page.paragraph("Fractions, counted as the original's code counts (CIDEr reaches 10).")
    for name in METRICS:
        page.section(TITLES[name])
        benchmark = BENCHMARKS[name]
        item_set = open_items(benchmark, data, benchmark.prompt_template("ours"))
        predictions = {
            when: {x.id: x for x in read_lines(out / when / name / PREDICTIONS)[0]} for when in WHEN
        }
        free = [item for item in item_set.items if not item.history]
        ordered = sorted(free, key=lambda item: not _has_new_shape(item))  # stable
        items = [*islice(_one_per_image(ordered), MAX_ITEMS)]
        prompt = common_prompt(items)
        if prompt:
            page.paragraph(f"Prompt: {prompt}")
        page.groups([*_card_groups(items, predictions, item_set.records, show_prompt=not prompt)])
    path = out / "gallery.html"
    page.save(path)
    return path


def _has_new_shape(item: Item) -> bool:
    texts = (item.prompt, *item.reference_texts, *item.reference_phrases)
    return any(NEW_SHAPE in text for text in texts)


def _one_per_image(items: Sequence[Item]) -> Iterator[Item]:
    """Yield the first item of every image."""
    image_ids: set[str] = set()
    for item in items:
        if item.image_id not in image_ids:
            image_ids.add(item.image_id)
            yield item


def _card_groups(
    items: Sequence[Item],
    predictions: Mapping[str, Mapping[str, Prediction]],
    records: RecordSource,
    *,
    show_prompt: bool,
) -> Iterator[tuple[Card, ...]]:
    """Yield three cards per item: predictions before and after training, and the reference."""
    load_image = image_loader(records)
    for item in items:
        before, reference = make_cards(
            item, predictions["before"].get(item.id), load_image, "before", show_prompt
        )
        after, _ = make_cards(
            item, predictions["after"].get(item.id), load_image, "after", show_prompt=False
        )
        yield before, after, reference


if __name__ == "__main__":
    from glamm_jax.cli.program import print_module_help

    print_module_help(__doc__, "python -m demo")

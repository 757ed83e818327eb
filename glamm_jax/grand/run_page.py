"""A web page about a run: counts and errors of the stages, time, distributions, a gallery.

    page = run_page(AnnotationRun.open("out/run"), num_images=24, seed=0)
    page.save(Path("report.html"))

The images of the gallery are chosen by the seed; the same run gives the same page. One image is in
memory at a time, and the gallery.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from glamm_jax.grand.record import REVIEW_STATES, GrandRecord
from glamm_jax.grand.record_cards import record_card
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections, StageStatus
from glamm_jax.grand.run_records import is_discarded, read_pixels, run_records, stage_times
from glamm_jax.grand.stages import REJECTED, SKIPPED
from glamm_jax.report.html_page import Card, Page

NUM_IMAGES = 24  # of the gallery
MAX_LABELS = 40  # rows of the table of labels
MAX_PLACES = 51  # of one kind of error: one more than a page lists
MAX_VALUES = 20_000  # of a histogram


def run_page(
    run: AnnotationRun,
    num_images: int = NUM_IMAGES,
    seed: int = 0,
    on_image: Callable[[], object] = lambda: None,
    *,
    ignore_reviews: bool = False,
) -> Page:
    """Return the page about the last run in a folder.

    Args:
        run: the folder.
        num_images: of the gallery.
        seed: of the choice of these.
        on_image: called after every image.
        ignore_reviews: show the automatic annotations, not as persons have reviewed them.

    Raises:
        RunFolderError: a file is damaged, or the folder has no run.
        DecisionError: the file of decisions is damaged.
    """
    stages = run.status()
    statistics = _RunStatistics(num_images, seed)
    for scene, record in run_records(run, ignore_reviews=ignore_reviews):
        statistics.add(scene, record)
        on_image()
    page = Page(str(run.path), f"{run.num_images:,} images of {run.root}")
    page.facts(statistics.facts())
    page.section("Stages")
    _add_stages(page, run, stages)
    page.section("Images that were rejected, and errors")
    page.counts_by_kind(statistics.problems)
    page.section("Distributions")
    page.histograms(statistics.values())
    page.section("Labels", level=3)
    rows = [(label, number) for label, number in statistics.labels.most_common(MAX_LABELS)]
    page.table(("label", "objects"), rows)
    if len(statistics.labels) > MAX_LABELS:
        page.paragraph(f"and {len(statistics.labels) - MAX_LABELS:,} more labels")
    page.section("Dense captions")
    page.table(("", "images"), statistics.captions())
    page.section("Gallery")
    page.paragraph("Numbers are those of the objects; hover over an image to see it without masks.")
    page.cards(statistics.cards(run))
    return page


def _add_stages(page: Page, run: AnnotationRun, stages: list[StageStatus]) -> None:
    times = stage_times(run)
    total = sum(time.seconds for time in times.values()) or 1.0
    rows = []
    for stage in stages:
        time = times[stage.name]
        seconds = time.seconds_per_image
        rows.append(
            (
                *(stage.name, stage.done, stage.failed, stage.skipped, stage.rejected),
                *(stage.missing, time.retried),
                "" if seconds is None else f"{1000 * seconds:.2f}",
                "" if not seconds else f"{1 / seconds:,.0f}",
                f"{100 * time.seconds / total:.1f} %",
            )
        )
    page.table(
        (
            *("stage", "done", "failed", "skipped", "rejected", "missing", "tried twice"),
            *("ms/image", "images/s per worker", "share of the time"),
        ),
        rows,
    )
    quarantined = [f"{s.name}: chunk {chunk}" for s in stages for chunk in s.quarantined]
    if quarantined:
        page.collapsed(f"{len(quarantined)} chunks failed several times", quarantined)


class _RunStatistics:
    """What is counted over all images.

    Attributes:
        problems: stage, kind and message -> images.
        labels: of objects.
    """

    def __init__(self, num_images: int, seed: int):
        self.problems: dict[str, list[str]] = {}
        self.labels: Counter[str] = Counter()
        self._random, self._size = random.Random(seed), num_images
        self._gallery: list[tuple[str, str, GrandRecord]] = []
        self._counts: Counter[str] = Counter()
        self._captions: Counter[str] = Counter()
        self._numbers: dict[str, Counter[int]] = {}

    def add(self, scene: SceneSections, record: GrandRecord | None) -> None:
        """Count an image."""
        self._counts[scene.status] += 1
        for name, error in scene.errors.items():
            if error.kind == SKIPPED or (error.kind == REJECTED and error.stage != name):
                continue
            kind = f"{name}: {error.kind}: {error.message}"
            places = self.problems.setdefault(kind, [])
            if len(places) < MAX_PLACES:
                places.append(scene.image_id)
        if record is None:
            return
        if record.review is not None:
            self._counts[record.review.state] += 1
            if is_discarded(record):
                return
        self._count(record)
        self._choose(scene, record)

    def _count(self, record: GrandRecord) -> None:
        self._counts["objects"] += len(record.objects)
        self._counts["floating objects"] += len(record.floating_objects)
        self._add_number("Objects in an image", len(record.objects))
        self._add_number("Floating objects in an image", len(record.floating_objects))
        for item in record.objects:
            self._add_number("Models that agree on an object", len({v.source for v in item.votes}))
            label = item.label or (item.labels[0] if item.labels else "")
            self.labels[label.replace("_", " ") or "no label"] += 1
            self._counts["masks"] += item.mask is not None
        texts = record.short_captions or ()
        found = {item.phrase.lower() for caption in texts for item in caption.groundings}
        self._counts["lost phrases"] += sum(
            link.phrase.lower() not in found for link in record.links
        )
        for caption in texts:
            self._add_number("Words of a short caption", len(caption.caption.split()))
        dense = record.dense_caption
        if dense is not None:
            self._counts["grounded phrases"] += len(dense.groundings)
            self._add_number("Words of a dense caption", len(dense.caption.split()))
            self._add_number("Grounded phrases of a dense caption", len(dense.groundings))
        if record.attempts:
            self._add_number("Answers until a dense caption", len(record.attempts))
            rounds = sum(attempt.problem is None for attempt in record.attempts)
            self._add_number("Rounds of verification", rounds)
        if record.additional_context is not None:
            words = len(record.additional_context.split())
            self._add_number("Words of the additional context", words)
        self._captions[_caption_state(record)] += 1

    def _add_number(self, title: str, number: int) -> None:
        self._numbers.setdefault(title, Counter())[number] += 1

    def _choose(self, scene: SceneSections, record: GrandRecord) -> None:
        """Reservoir sampling: every image has the same chance."""
        self._counts["annotated"] += 1
        entry = (scene.image_id, scene.file, record)
        if len(self._gallery) < self._size:
            self._gallery.append(entry)
        else:
            place = self._random.randrange(self._counts["annotated"])
            if place < self._size:
                self._gallery[place] = entry

    def facts(self) -> dict[str, int]:
        """Return the row of numbers at the top."""
        names = {
            "annotated": "images annotated",
            REJECTED: "images rejected",
            "partial": "images with errors",
            "objects": "objects",
            "masks": "masks",
            "floating objects": "floating objects",
            "grounded phrases": "phrases in dense captions",
            "lost phrases": "linked phrases that no short caption has",
            **{
                state: f"images {state} in review" for state in REVIEW_STATES if self._counts[state]
            },
        }
        return {text: self._counts[name] for name, text in names.items()}

    def values(self) -> dict[str, list[float]]:
        """Return the values of each histogram; of very many a proportional part."""
        result = {}
        for title, counts in self._numbers.items():
            step = max(1, sum(counts.values()) // MAX_VALUES)
            result[title] = [
                float(number)
                for number, times in sorted(counts.items())
                for _ in range(max(1, times // step))
            ]
        return result

    def captions(self) -> list[tuple[str, int]]:
        """Return the rows of the table of dense captions."""
        return self._captions.most_common()

    def cards(self, run: AnnotationRun) -> list[Card]:
        """Return the gallery, in the order of the image ids."""
        cards = []
        for image_id, file, record in sorted(self._gallery, key=lambda entry: entry[0]):
            pixels = read_pixels(run, file)
            if pixels is not None:
                cards.append(record_card(pixels, record, image_id))
        return cards


def _caption_state(record: GrandRecord) -> str:
    if record.dense_caption is None:
        return "none"
    if record.dense_source == "reviewer":
        return "written by a reviewer"
    if record.review is not None and record.review.is_accepted:
        return f"{record.review.state} in review"
    if record.dense_source == "template":
        return "written by the template"
    if record.verified is None:
        return "not checked"
    return "verified" if record.verified else "names what the scene graph does not have"

"""The annotations of a run as records: of all images, or of one.

    run = AnnotationRun.open("out/run")
    for image, record in export_items(run): ...       # as persons have reviewed them
    place = find_image(run, "dog.jpg")
    scene = read_scene(run, place)          # all sections and errors of the image
    stage_times(run)["fusion"].seconds_per_image

One image is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.chunks import RunFolderError, is_local, list_names, read_file
from glamm_jax.grand.export.images import AnnotatedImage, flat_name
from glamm_jax.grand.images import IMAGE, ImageReader
from glamm_jax.grand.levels.level4 import ANNOTATIONS
from glamm_jax.grand.levels.sections import read_record
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.review.run_reviews import RunReviews, open_reviews
from glamm_jax.grand.roles import Pixels
from glamm_jax.grand.run_folder import AnnotationRun, ImageEntry, SceneSections
from glamm_jax.grand.stages import StageGraph

NO_RECORD = GrandRecord()
_SUGGESTED_FROM = 100_000  # names that are compared with one that is unknown


class UnknownImageError(GLaMMError):
    """A run has no image of a name. Says which names are similar."""


# ------------------------------------------------------------------ all images


def annotation_stages(run: AnnotationRun) -> list[str]:
    """Return the stages whose outcomes decide what is known about an image.

    A stage that failed on no image need not be read.

    Raises:
        RunFolderError: the folder has no run.
    """
    failed = [stage.name for stage in run.status() if stage.failed]
    return list(dict.fromkeys((IMAGE, ANNOTATIONS, *failed)))


def run_records(
    run: AnnotationRun, *, ignore_reviews: bool = False
) -> Iterator[tuple[SceneSections, GrandRecord | None]]:
    """Yield each image with its annotations, as persons have reviewed them; None if there are none.

    The sections are those of `annotation_stages`, as the models made them.

    Args:
        run: the folder.
        ignore_reviews: yield the automatic records.

    Raises:
        RunFolderError: a file is damaged, or the folder has no run.
        DecisionError: the file of decisions is damaged.
    """
    reviews = None if ignore_reviews else open_reviews(run)
    for scene in run.scenes(stages=annotation_stages(run)):
        yield scene, reviewed_annotations(scene, reviews)


def reviewed_annotations(scene: SceneSections, reviews: RunReviews | None) -> GrandRecord | None:
    """Return the annotations of an image, as persons have reviewed them; None if there are none.

    Args:
        scene: with the sections of the stages `image` and `annotations`.
        reviews: of the run; None: the automatic record is returned.

    Raises:
        DecisionError: a correction does not fit the record.
    """
    section = scene.sections.get(ANNOTATIONS)
    if section is None:
        return None
    if reviews is None:
        return read_record(section)
    return reviews.apply(scene.image_id, section, scene.sections.get(IMAGE, {}))


def export_items(
    run: AnnotationRun, *, ignore_reviews: bool = False
) -> Iterator[tuple[AnnotatedImage, GrandRecord]]:
    """Yield each image with its annotations, as exporters take them.

    An image without annotations has the status "rejected", one that a person discarded
    "discarded". Images in folders have the names of the folders in their file name.

    Args:
        run: the folder.
        ignore_reviews: yield the automatic records.

    Raises:
        RunFolderError: a file is damaged, or the folder has no run.
        DecisionError: the file of decisions is damaged.
    """
    reader = ImageReader(run.root, 0)
    local = "://" not in run.root
    for scene, record in run_records(run, ignore_reviews=ignore_reviews):
        image = scene.sections.get(IMAGE, {})
        status = scene.status if record is not None and image else "rejected"
        if is_discarded(record) and status != "rejected":
            status = "discarded"
        content = Path(run.root, scene.file) if local else _Reading(reader, scene.file)
        item = AnnotatedImage(
            scene.image_id,
            flat_name(scene.file),
            content,
            image.get("sha256", ""),
            image.get("height", 0),
            image.get("width", 0),
            int(image["dhash"], 16) if "dhash" in image else None,
            status,  # pyright: ignore[reportArgumentType]
        )
        yield item, record if record is not None else NO_RECORD


def is_discarded(record: GrandRecord | None) -> bool:
    """Whether a person discarded the image of a record."""
    return record is not None and record.review is not None and record.review.state == "discarded"


@dataclass(frozen=True)
class _Reading:
    """Reads the file of an image in a bucket."""

    reader: ImageReader
    file: str

    def __call__(self) -> bytes:
        return self.reader.read_bytes(self.file)


# ------------------------------------------------------------------ one image


@dataclass(frozen=True)
class ImagePlace:
    """Where an image is in a run.

    Attributes:
        chunk: number of its chunk.
        index: of the image in the chunk.
        entry: id and file.
    """

    chunk: int
    index: int
    entry: ImageEntry


def find_image(run: AnnotationRun, name: str) -> ImagePlace:
    """Return where an image is.

    Args:
        run: the folder.
        name: id of the image, or the part of it behind a "/", with or without extension.

    Raises:
        UnknownImageError: there is no such image, or several.
        RunFolderError: the list of images is damaged.
    """
    similar: list[ImagePlace] = []
    names: list[str] = []
    for chunk in range(run.num_chunks):
        for index, entry in enumerate(run.images(chunk)):
            if entry.image_id == name:
                return ImagePlace(chunk, index, entry)
            last = entry.image_id.rpartition("/")[2]
            if name in (last, last.rpartition(".")[0]):
                similar.append(ImagePlace(chunk, index, entry))
            elif len(names) < _SUGGESTED_FROM:
                names.append(entry.image_id)
    if len(similar) == 1:
        return similar[0]
    if similar:
        found = ", ".join(place.entry.image_id for place in similar[:5])
        raise UnknownImageError(f"{run.path}: several images are named {name!r}: {found}")
    near = get_close_matches(name, names, n=3)
    advice = f"; similar: {', '.join(near)}" if near else f"; the first one is {names[0]}"
    raise UnknownImageError(f"{run.path}: no image {name!r}{advice}")


def read_scene(
    run: AnnotationRun, place: ImagePlace, stages: Collection[str] | None = None
) -> SceneSections:
    """Return what the last run made of an image.

    Args:
        run: the folder.
        place: of the image.
        stages: names of those to read; None: all.

    Raises:
        RunFolderError: a file is damaged, or the folder has no run.
    """
    ids = [entry.image_id for entry in run.images(place.chunk)]
    sections, errors, attempts = {}, {}, {}
    for stage in run.graph_description():
        name = stage["name"]
        if stages is not None and name not in stages:
            continue
        outcomes = run.outcomes(name, stage["fingerprint"], place.chunk, ids)
        try:
            outcome = next(islice(outcomes, place.index, None))
        except FileNotFoundError:
            continue
        attempts[name] = outcome.attempt
        if outcome.error is not None:
            errors[name] = outcome.error
        else:
            sections[name] = outcome.section
    return SceneSections(place.entry.image_id, place.entry.file, sections, errors, attempts)


def read_pixels(run: AnnotationRun, file: str) -> Pixels | None:
    """Return the upright pixels of an image of a run; None if it cannot be read."""
    try:
        return ImageReader(run.root, 0).pixels(file)
    except GLaMMError:
        return None


# ------------------------------------------------------------------ time


@dataclass(frozen=True)
class StageTime:
    """How long a stage took.

    Attributes:
        images: that it processed, of all runs in the folder, skipped ones not included.
        seconds: summed over workers.
        retried: images that were processed twice.
        peak_mib: most memory of a worker when it had processed a chunk; None: not known.
    """

    images: int = 0
    seconds: float = 0.0
    retried: int = 0
    peak_mib: int | None = None

    @property
    def seconds_per_image(self) -> float | None:
        """None if nothing was measured."""
        return self.seconds / self.images if self.images else None


def stage_times(run: AnnotationRun, graph: StageGraph | None = None) -> dict[str, StageTime]:
    """Return the times of each stage, by the statistics of its chunks.

    Args:
        run: the folder.
        graph: the stages; None: those of the last run. For a stage that was never run with these
            settings the times with other settings count.

    Raises:
        RunFolderError: the folder has no run.
    """
    described = run.graph_description() if graph is None else graph.describe()
    times = {}
    for stage in described:
        name, fingerprint = stage["name"], stage["fingerprint"]
        folder = run.stage_folder(name, fingerprint, "statistics")
        files = [folder / file for file in list_names(folder)]
        if not files:
            parent = folder.parent
            files = [
                parent / x / file for x in list_names(parent) for file in list_names(parent / x)
            ]
        times[name] = _sum_times(files)
    return times


def model_usage(run: AnnotationRun) -> dict[str, dict[str, float]]:
    """Return what the requests of each model took, in all runs with the last run's stages.

    Args:
        run: the folder.

    Returns:
        By name of the model: counts by their names, see `endpoint.usage`. Models that do not count
        are left out.

    Raises:
        RunFolderError: the folder has no run.
    """
    total: dict[str, dict[str, float]] = {}
    for stage in run.graph_description():
        folder = run.stage_folder(stage["name"], stage["fingerprint"], "statistics")
        for file in list_names(folder):
            for model, counts in _usage(_statistics(folder / file)).items():
                sums = total.setdefault(model, {})
                for name, number in counts.items():
                    sums[name] = sums.get(name, 0) + number
    return total


def _usage(statistics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the usage of a file of statistics; {} if there is none, or it is damaged."""
    usage = statistics.get("usage")
    if not isinstance(usage, dict) or not all(isinstance(x, dict) for x in usage.values()):
        return {}
    return {
        model: {name: x for name, x in counts.items() if isinstance(x, int | float)}
        for model, counts in usage.items()
    }


def chunk_seconds(run: AnnotationRun, stage: Mapping[str, Any], chunk: int) -> float | None:
    """Return the seconds that a stage took for a chunk; None if that is not known.

    Args:
        run: the folder.
        stage: an element of `AnnotationRun.graph_description`.
        chunk: number of the chunk.
    """
    path = run.chunk_path(stage["name"], stage["fingerprint"], chunk, "statistics")
    return _statistics(path).get("seconds")


def _sum_times(files: list[Any]) -> StageTime:
    images, seconds, retried, peak = 0, 0.0, 0, 0
    for path in files:
        counts = _statistics(path)
        if counts:
            images += counts["done"] + counts["failed"]
            seconds += counts["seconds"]
            retried += counts.get("retried", 0)
            peak = max(peak, counts.get("peak_mib", 0))
    return StageTime(images, seconds, retried, peak or None)


def _statistics(path: Any) -> dict[str, Any]:
    """Return the content of a file of statistics; {} if it is missing or damaged."""
    try:
        fields = json.loads(read_file(path))
        return fields if {"done", "failed", "seconds"} <= set(fields) else {}
    except (FileNotFoundError, RunFolderError, ValueError, TypeError):
        return {}


def truth_folder(run: AnnotationRun) -> Path | None:
    """Return the folder of rendered scenes that the images are from; None if they are not."""
    folder = Path(run.root).parent
    return folder if is_local(run.path) and (folder / "scenes.json").is_file() else None

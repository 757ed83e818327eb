"""The files of GranD_f, resumable.

    summary = build_refcocog(data, "train", llm, out)
    summary = build_open_psg(data, "train", llm, out)
    summary = build_flickr30k(data, "train", segmenter, out)

OUT/GranDf/annotations/train/NAME.json is written when all images are processed. What the model has
made of each image stays in OUT/results/NAME.jsonl, so that no build asks for it twice. The image
files stay where they are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from glamm_jax.data import rle
from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, ImageError, open_image
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.grandf import TRAIN
from glamm_jax.errors import GLaMMError
from glamm_jax.files import FileNameError, atomic_file, lock_path, read_regular_file
from glamm_jax.grand.export.summary import count_lines
from glamm_jax.grand.grandf import flickr30k, open_psg, refcocog
from glamm_jax.grand.grandf.caption_rewriting import (
    RewriteOptions,
    RewriteTask,
    RewrittenCaption,
    request_digest,
    rewrite_captions,
)
from glamm_jax.grand.grandf.open_psg import SegmentedImage
from glamm_jax.grand.grandf.refcocog import ReferredImage
from glamm_jax.grand.grandf.work_log import WorkLog
from glamm_jax.grand.roles import RoleError, RoleImage, Segmenter, TextLLM

TASKS_PER_CALL = 16  # of a language model that states no batch size
IMAGES_PER_CALL = 8
NO_CAPTION, FAILED = "images: no caption", "images: model failed"
INCOMPLETE = "images: caption lacks an expression"
NO_GROUNDING = "images: no grounded phrase"
UNREADABLE = "images: cannot be read"
UNUSABLE_MASK = "images: unusable masks"
Item = TypeVar("Item")
OnImages = Callable[[int], Any]


class BuildError(GLaMMError):
    """A file of GranD_f cannot be made. Says why."""


@dataclass
class BuildSummary:
    """What a build has written, and what it has left out.

    Attributes:
        path: of the file.
        num_images: entries of the file.
        num_phrases: grounded phrases.
        num_requests: to the language model.
        dropped: number by reason.
        problems: why some images have no caption, with the key of the image.
    """

    path: Path
    num_images: int = 0
    num_phrases: int = 0
    num_requests: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the lines that a program prints."""
        counts = {"grounded phrases": self.num_phrases}
        counts |= {"requests": self.num_requests} if self.num_requests else {}
        return count_lines(self.num_images, counts, self.dropped)


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        limit: the first images only; None: all.
        complete_only: leave out images whose caption lacks an expression.
        rewrite: how often the language model is asked.
    """

    limit: int | None = None
    complete_only: bool = False
    rewrite: RewriteOptions = field(default_factory=RewriteOptions)


DEFAULTS = BuildOptions()


def build_refcocog(
    data: Path,
    split: str,
    llm: TextLLM,
    out: Path,
    options: BuildOptions = DEFAULTS,
    on_images: OnImages = lambda count: None,
) -> BuildSummary:
    """Make captions of the expressions of RefCOCOg.

    Args:
        data: the data folder.
        split: "train" or "val".
        llm: joins the expressions.
        out: the folder to write; may be the data folder.
        options: of the build.
        on_images: called with the number of images that were processed.

    Raises:
        SourceError: the data is missing or damaged.
        FolderError: the folder is being written, or cannot be written.
    """

    def entry(image: ReferredImage, caption: str, summary: BuildSummary) -> Any:
        fields = refcocog.refcocog_entry(image, caption, summary.dropped)
        summary.num_phrases += len(fields[image.key]["refs"]) if fields else 0
        return fields

    name = refcocog.FILE_NAME.format(split=split)
    read = partial(refcocog.read_refcocog, data, split)
    return _build_captions(out, name, read, entry, llm, options, on_images)


def build_open_psg(
    data: Path,
    split: str,
    llm: TextLLM,
    out: Path,
    options: BuildOptions = DEFAULTS,
    on_images: OnImages = lambda count: None,
) -> BuildSummary:
    """Make captions of the relations of OpenPSG.

    Args:
        data: the data folder.
        split: "train" or "val".
        llm: writes the relations as a text.
        out: the folder to write; may be the data folder.
        options: of the build.
        on_images: called with the number of images that were processed.

    Raises:
        SourceError: the data is missing or damaged.
        FolderError: the folder is being written, or cannot be written.
    """

    def entry(image: SegmentedImage, caption: str, summary: BuildSummary) -> Any:
        ids = open_psg.panoptic_ids(data, image)
        fields = open_psg.open_psg_entry(image, caption, ids, summary.dropped)
        summary.num_phrases += len(fields["groundings"]) if fields else 0
        return fields

    name = open_psg.FILE_NAME.format(split=split)
    read = partial(open_psg.read_open_psg, data, split)
    return _build_captions(out, name, read, entry, llm, options, on_images)


def build_flickr30k(
    data: Path,
    split: str,
    segmenter: Segmenter,
    out: Path,
    options: BuildOptions = DEFAULTS,
    on_images: OnImages = lambda count: None,
) -> BuildSummary:
    """Make masks of the boxes of Flickr30k.

    Args:
        data: the data folder.
        split: "train" or "val".
        segmenter: makes a mask of each box.
        out: the folder to write; may be the data folder.
        options: of the build.
        on_images: called with the number of images that were processed.

    Raises:
        SourceError: the data is missing or damaged.
        FolderError: the folder is being written, or cannot be written.
    """
    name = flickr30k.FILE_NAME.format(split=split)
    with _building(out, name) as (summary, log, target):
        images = flickr30k.read_flickr30k(data, split, summary.dropped)[: options.limit]
        segmenter.setup()
        entries, annotations = [], []
        size = getattr(segmenter, "batch_size", IMAGES_PER_CALL)
        for part in _parts(images, size):
            for image, masks in zip(part, _masks(part, segmenter, log, summary), strict=True):
                if masks is None:
                    continue
                grounded = flickr30k.flickr30k_annotations(image, masks, summary.dropped)
                entries.append(image.entry)
                annotations += grounded
                summary.num_phrases += len(grounded)
            on_images(len(part))
        _write(target, {"images": entries, "annotations": annotations, "categories": []})
        summary.num_images = len(entries)
    return summary


def _build_captions(
    out: Path,
    name: str,
    read: Callable[[Counter[str]], Sequence[Any]],
    entry: Callable[[Any, str, BuildSummary], Any],
    llm: TextLLM,
    options: BuildOptions,
    on_images: OnImages,
) -> BuildSummary:
    """Write a file whose captions a language model writes.

    Args:
        out: the folder to write.
        name: of the file.
        read: returns the images, and counts what it leaves out.
        entry: of the file, for an image and its caption; None if the caption has no grounded
            phrase. Raises SourceError if the masks of the image cannot be read.
        llm: the model.
        options: of the build.
        on_images: as in `build_refcocog`.
    """
    with _building(out, name) as (summary, log, target):
        images = read(summary.dropped)[: options.limit]
        entries = []
        for image, caption in _rewritten(images, llm, options, log, summary, on_images):
            try:
                fields = entry(image, caption, summary)
            except SourceError as error:
                summary.dropped[open_psg.NO_PANOPTIC] += 1
                summary.problems[image.key] = str(error)
                continue
            if fields is None:
                summary.dropped[NO_GROUNDING] += 1
            else:
                entries.append(fields)
        _write(target, entries)
        summary.num_images = len(entries)
    return summary


@contextmanager
def _building(out: Path, name: str) -> Iterator[tuple[BuildSummary, WorkLog, Path]]:
    """Lock the results of a file."""
    target = out / TRAIN / name
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name.removesuffix('.json')}.jsonl"
    with lock_path(path.with_suffix(".lock"), str(path)), WorkLog(path) as log:
        yield BuildSummary(target), log, target


def _rewritten(
    images: Sequence[Any],
    llm: TextLLM,
    options: BuildOptions,
    log: WorkLog,
    summary: BuildSummary,
    on_images: OnImages,
) -> Iterator[tuple[Any, str]]:
    """Yield images with their captions, in order."""
    llm.setup()
    size = getattr(llm, "batch_size", TASKS_PER_CALL)
    for part in _parts(images, size):
        tasks: list[RewriteTask] = [image.task for image in part]
        digests = [f"{request_digest(task)}-{llm.fingerprint}" for task in tasks]
        pending = [i for i, task in enumerate(tasks) if log.find(task.key, digests[i]) is None]
        new = rewrite_captions([tasks[i] for i in pending], llm, options.rewrite) if pending else []
        failed: dict[int, RewrittenCaption] = {}
        for i, result in zip(pending, new, strict=True):
            if result.failed:  # the next build tries again
                failed[i] = result
            else:
                log.add(tasks[i].key, digests[i], _to_json(result))
        for i, image in enumerate(part):
            result = failed.get(i) or _from_json(log.find(tasks[i].key, digests[i]))
            summary.num_requests += result.num_requests
            if result.caption is None:
                summary.dropped[FAILED if result.failed else NO_CAPTION] += 1
                summary.problems[image.key] = result.problem or ""
            elif result.missing and options.complete_only:
                summary.dropped[INCOMPLETE] += 1
            else:
                yield image, result.caption
        on_images(len(part))


def _masks(
    images: Sequence[flickr30k.BoxedImage],
    segmenter: Segmenter,
    log: WorkLog,
    summary: BuildSummary,
) -> list[list[dict[str, Any]] | None]:
    """Return the masks of the boxes of each image; None if it has none."""
    results: list[list[dict[str, Any]] | None] = []
    pending: list[tuple[int, RoleImage]] = []
    digests = []
    for i, image in enumerate(images):
        text = json.dumps([segmenter.fingerprint, image.boxes])
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
        stored = log.find(image.key, digests[i])
        results.append(stored)
        if stored is None:
            try:
                pixels = open_image(read_regular_file(image.path, MAX_IMAGE_BYTES))
            except (ImageError, FileNameError, OSError) as error:
                summary.dropped[UNREADABLE] += 1
                summary.problems[image.key] = str(error)
                continue
            pending.append((i, RoleImage(image.key, pixels)))
    for i, masks in _segmented(pending, images, segmenter):
        if isinstance(masks, RoleError):
            summary.dropped[FAILED] += 1
            summary.problems[images[i].key] = masks.message
            continue
        shape = next(item for number, item in pending if number == i).pixels.shape[:2]
        if len(masks) != len(images[i].boxes) or any(m["size"] != [*shape] for m in masks):
            summary.dropped[UNUSABLE_MASK] += 1
            summary.problems[images[i].key] = f"masks of {segmenter.name} do not fit the image"
            continue
        results[i] = [rle.compress(mask) for mask in masks]
        log.add(images[i].key, digests[i], results[i])
    return results


def _segmented(
    pending: Sequence[tuple[int, RoleImage]],
    images: Sequence[flickr30k.BoxedImage],
    segmenter: Segmenter,
) -> list[tuple[int, Any]]:
    """Call the segmenter; a batch that fails is tried image by image."""
    if not pending:
        return []
    try:
        results = segmenter([x for _, x in pending], [images[i].boxes for i, _ in pending])
        return [(i, result) for (i, _), result in zip(pending, results, strict=True)]
    except Exception as error:  # the code of a model may raise anything
        if len(pending) == 1:
            message = f"{type(error).__name__}: {error}"
            return [(pending[0][0], RoleError("model", message))]
    return [result for item in pending for result in _segmented([item], images, segmenter)]


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), max(1, size)):
        yield items[start : start + size]


def _to_json(result: RewrittenCaption) -> dict[str, Any]:
    return {
        "caption": result.caption,
        "missing": list(result.missing),
        "requests": result.num_requests,
        "problem": result.problem,
    }


def _from_json(value: Any) -> RewrittenCaption:
    try:
        caption, missing = value["caption"], tuple(map(str, value["missing"]))
        return RewrittenCaption(
            None if caption is None else str(caption),
            missing,
            int(value["requests"]),
            value["problem"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"a stored caption is damaged: {value!r}") from error


def _write(path: Path, content: Any) -> None:
    """Write JSON entry by entry, so that the text is never in memory as a whole."""
    with atomic_file(path) as file:
        for piece in json.JSONEncoder(separators=(",", ":")).iterencode(content):
            file.write(piece.encode("ascii"))

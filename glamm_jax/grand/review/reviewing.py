"""What the review page can do with a run: show an image, decide, undo, compute a mask.

    desk = ReviewDesk(run, ReviewQueue(run, DecisionLog(run.path)))
    desk.image("dog.jpg", session="a")
    desk.decide(JSONObject(fields, "the request"))

Everything here takes and returns JSON; `server` adds HTTP.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any

from PIL import Image

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.images import IMAGE, ImageReader
from glamm_jax.grand.levels.level4 import ANNOTATIONS
from glamm_jax.grand.levels.sections import read_record
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.review.confidence import RecordConfidence, record_confidence
from glamm_jax.grand.review.correction import (
    Correction,
    box_from_json,
    check_keys,
)
from glamm_jax.grand.review.decisions import (
    ACTIONS,
    DecisionConflictError,
    DecisionRequest,
    checked_author,
    effective,
    record_digest,
)
from glamm_jax.grand.review.page_data import correction_of, outline_data, palette, record_data
from glamm_jax.grand.review.queue import ALL, STATES, ReviewQueue
from glamm_jax.grand.review.reviewed_record import corrected_record
from glamm_jax.grand.review.run_reviews import RunReviews
from glamm_jax.grand.review.segmenting import BoxSegmenter, SegmentationError
from glamm_jax.grand.roles import Pixels
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections
from glamm_jax.grand.run_records import ImagePlace, annotation_stages, read_scene
from glamm_jax.json_files import JSONError, JSONObject, show

MAX_SHOWN_SIDE = 2048  # longer side of the image in the page
JPEG_QUALITY = 90
MAX_LISTED = 500
MASK_SOURCE = "segmenter"  # as `MaskOptions.sources` calls it


class NoSuchImageError(GLaMMError):
    """There is no such image, or it has no annotations."""


@dataclass(frozen=True)
class ReviewedImage:
    """An image with its automatic and its reviewed record.

    Attributes:
        scene: with the sections that were read.
        automatic: the record as the models made it.
        current: the reviewed record.
        digest: sha256 of the automatic record.
        size: height and width.
        confidence: of the automatic record.
    """

    scene: SceneSections
    automatic: GrandRecord
    current: GrandRecord
    digest: str
    size: tuple[int, int]
    confidence: RecordConfidence


class ReviewDesk:
    """Answers the requests of review pages; threads may share it."""

    def __init__(
        self,
        run: AnnotationRun,
        queue: ReviewQueue,
        segmenter: BoxSegmenter | None = None,
        author: str = "",
    ):
        """Remember the run.

        Args:
            run: the folder.
            queue: of its images.
            segmenter: for boxes that are drawn; None: they have no mask.
            author: proposed to persons as their name.

        Raises:
            RunFolderError: the folder has no run.
        """
        self._run, self._queue, self._log = run, queue, queue.log
        self._segmenter, self._author = segmenter, author
        self._stages = annotation_stages(run)
        self._reader, self._reader_lock = ImageReader(run.root), threading.Lock()

    # ------------------------------------------------------------------ questions

    def run(self) -> dict[str, Any]:
        """Return what the page shows of the run, and how far it is reviewed."""
        queue = self._queue
        queue.refresh()
        return {
            "run": str(self._run.path),
            "author": self._author,
            "images": queue.num_images,
            "read": queue.read,
            "problem": queue.problem,
            "counts": queue.counts(),
            "segmenter": None if self._segmenter is None else self._segmenter.name,
            "palette": palette(),
            "removed_bytes": self._log.removed_bytes,
        }

    def next(self, state: str, session: str, current: str | None) -> dict[str, Any]:
        """Return the image to review next.

        Args:
            state: which images to review.
            session: name of the page.
            current: the image that it shows.

        Raises:
            JSONError: there is no such state.
        """
        self._queue.refresh()
        return {"image": self._queue.next_image(_checked_state(state), session, current)}

    def listing(self, state: str, offset: int, limit: int) -> dict[str, Any]:
        """Return some images, in the order of their confidence.

        Args:
            state: which images.
            offset: number of images to leave out.
            limit: largest number of images.

        Raises:
            JSONError: there is no such state.
        """
        self._queue.refresh()
        total, entries = self._queue.listing(
            _checked_state(state), max(0, offset), max(0, min(limit, MAX_LISTED))
        )
        items = [
            {
                "image": item.image_id,
                "confidence": item.confidence,
                "state": self._queue.state(item.image_id),
            }
            for item in entries
        ]
        return {"total": total, "items": items}

    def image(self, image_id: str, session: str) -> dict[str, Any]:
        """Return all that the page shows of an image.

        Args:
            image_id: of the image.
            session: name of the page.

        Raises:
            NoSuchImageError: there is no such image, or it has no annotations.
        """
        self._queue.refresh()
        item = self._read(image_id)
        decisions = self._log.decisions(image_id)
        review = item.current.review
        height, width = item.size
        return {
            "image": image_id,
            "height": height,
            "width": width,
            "status": item.scene.status,
            "errors": [f"{name}: {error.message}" for name, error in item.scene.errors.items()],
            "confidence": item.confidence.value,
            "reasons": list(item.confidence.reasons),
            "base": len(decisions),
            "record": item.digest,
            "review": None if review is None else review.to_json(),
            "decisions": [
                {"author": x.author, "time": x.time, "action": x.action} for x in decisions
            ],
            "can_undo": bool(effective(decisions, item.digest)),
            "opened_by_other": self._queue.open_image(image_id, session),
            **record_data(item.current),
        }

    def pixels(self, image_id: str) -> bytes:
        """Return an image as JPEG, reduced if it is large.

        Args:
            image_id: of the image.

        Raises:
            NoSuchImageError: the run does not have it, or it cannot be read.
        """
        image = Image.fromarray(self._pixels(image_id))
        image.thumbnail((MAX_SHOWN_SIDE, MAX_SHOWN_SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return stream.getvalue()

    # ------------------------------------------------------------------ decisions

    def decide(self, fields: JSONObject) -> dict[str, Any]:
        """Append a decision: "approve", "discard", "correct" or "undo".

        Args:
            fields: image, base, record, author, action, and content for "correct".

        Raises:
            DecisionConflictError: somebody else decided meanwhile, or the annotations changed.
            GLaMMError: the request or the correction cannot be used.
        """
        check_keys(fields, ("image", "base", "record", "author", "action", "content"))
        image_id, action = fields.text("image"), fields.text("action")
        author, base = checked_author(fields), fields.integer("base", minimum=0)
        if action not in ACTIONS:
            raise JSONError(f"{fields.place('action')} = {show(action)} is no decision")
        self._queue.refresh()
        item = self._read(image_id)
        if fields.text("record") != item.digest:
            raise DecisionConflictError(
                "this image was annotated again after you opened it; nothing was saved: look at "
                "the newer annotations first"
            )
        correction: Correction | None = None
        if action == "correct":
            if base == len(self._log.decisions(image_id)):
                correction = correction_of(item.automatic, item.current, fields.object("content"))
                corrected_record(item.automatic, correction, item.size)
                if correction.is_empty and self._log.correction(image_id, item.digest) is None:
                    action, correction = "approve", None
            else:
                correction = Correction()  # it will be refused
        request = DecisionRequest(image_id, base, author, action, item.digest, correction)
        decision = self._log.append(request)
        self._queue.refresh()
        return {"action": decision.action, "time": decision.time, "base": decision.base + 1}

    def mask(self, fields: JSONObject) -> dict[str, Any]:
        """Return the mask of a box, and its outline.

        Args:
            fields: image and box.

        Raises:
            SegmentationError: there is no segmenter, or it failed.
            NoSuchImageError: there is no such image.
            JSONError: the box is none.
        """
        check_keys(fields, ("image", "box"))
        if self._segmenter is None:
            raise SegmentationError(
                "there is no segmenter: start the review with --roles to compute masks"
            )
        image_id, box = fields.text("image"), box_from_json(fields)
        runs = self._segmenter.mask(image_id, self._pixels(image_id), box)
        return {"mask": runs, "mask_source": MASK_SOURCE, "outline": outline_data(runs)}

    def _place(self, image_id: str) -> ImagePlace:
        place = self._queue.place(image_id)
        if place is None:
            raise NoSuchImageError(f"the run has no image {show(image_id)}")
        return place

    def _pixels(self, image_id: str) -> Pixels:
        place = self._place(image_id)
        try:
            with self._reader_lock:
                return self._reader.pixels(place.entry.file)
        except GLaMMError as error:
            raise NoSuchImageError(str(error)) from error

    def _read(self, image_id: str) -> ReviewedImage:
        place = self._place(image_id)
        scene = read_scene(self._run, place, self._stages)
        section, image = scene.sections.get(ANNOTATIONS), scene.sections.get(IMAGE)
        if section is None or image is None:
            reasons = "; ".join(f"{name}: {x.message}" for name, x in scene.errors.items())
            raise NoSuchImageError(
                f"{show(image_id)} has no annotations: {reasons or 'it is not finished'}"
            )
        automatic = read_record(section)
        digest = record_digest(section, image)
        confidence = record_confidence(automatic, is_partial=bool(scene.errors))
        self._queue.update(image_id, digest, confidence)
        size = (image["height"], image["width"])
        current = RunReviews(self._log).apply(image_id, section, image)
        return ReviewedImage(scene, automatic, current, digest, size, confidence)


def _checked_state(state: str) -> str:
    if state not in (*STATES, ALL):
        raise JSONError(f"state = {show(state)} is none of {', '.join((*STATES, ALL))}")
    return state

"""The order in which the images of a run are reviewed: the lowest confidence first.

    queue = ReviewQueue(run, DecisionLog(run.path))
    queue.start()                               # reads all records once, in a thread
    queue.next_image("unreviewed", session="a")         # id of an image; None: there is none

The confidence of an image needs its record, and a run may have many. So the order is made while the
first images are reviewed, and stays in memory; `next_image` chooses among those whose confidence is
known by then. An image that another session opened in the last `LEASE_SECONDS` comes last.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.images import IMAGE
from glamm_jax.grand.levels.level4 import ANNOTATIONS
from glamm_jax.grand.levels.sections import read_record
from glamm_jax.grand.review.confidence import RecordConfidence, record_confidence
from glamm_jax.grand.review.decisions import DecisionLog, record_digest
from glamm_jax.grand.run_folder import AnnotationRun, ImageEntry, SceneSections
from glamm_jax.grand.run_records import ImagePlace, annotation_stages
from glamm_jax.grand.stages import one_line

UNREVIEWED, OUTDATED = "unreviewed", "outdated"
STATES = (UNREVIEWED, "approved", "corrected", "discarded", OUTDATED)
ALL = "all"
LEASE_SECONDS = 600.0
MAX_SESSIONS = 1_000
FIRST_SECONDS = 30.0  # to wait for the first images


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """An image that can be reviewed.

    Attributes:
        confidence: of its automatic record.
        image_id: of the image.
        record: sha256 of the automatic record.
    """

    confidence: float
    image_id: str
    record: str


@dataclass
class ReviewSession:
    """What a page that is open in a browser has shown.

    Attributes:
        passed: images that `next_image` has chosen, so that others come before them.
        image_id: the last one.
        time: when it was opened, of a monotonic clock.
    """

    passed: set[str] = field(default_factory=set)
    image_id: str | None = None
    time: float = 0.0


class ReviewQueue:
    """The images of a run by confidence, with the state of each. Threads may share it.

    Attributes:
        log: of the decisions.
        read: number of images whose record was read.
        problem: why the records could not be read to the end; "" if they could.
    """

    def __init__(
        self,
        run: AnnotationRun,
        log: DecisionLog,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Read the list of images.

        Args:
            run: the folder.
            log: of the decisions.
            clock: returns seconds.

        Raises:
            RunFolderError: the list is damaged.
        """
        self._run, self.log, self._clock = run, log, clock
        self._places: dict[str, tuple[int, int]] = {}
        self._files: dict[str, str] = {}
        for chunk in range(run.num_chunks):
            for index, entry in enumerate(run.images(chunk)):
                self._places[entry.image_id] = chunk, index
                self._files[entry.image_id] = entry.file
        self._order: list[QueueEntry] = []
        self._entries: dict[str, QueueEntry] = {}
        self._states: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._sessions: dict[str, ReviewSession] = {}
        self._sequence = len(log)  # of the last decision that the states have
        self._lock = threading.RLock()
        self._has_images, self._stopped = threading.Event(), threading.Event()
        self.read, self.problem = 0, ""

    # ------------------------------------------------------------------ the order

    def start(self) -> threading.Thread:
        """Compute the order in a thread; returns it."""
        thread = threading.Thread(target=self.compute, name="confidence", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Let the thread end after the image that it reads."""
        self._stopped.set()

    def compute(self) -> None:
        """Read all records, and sort the images by confidence."""
        try:
            for scene in self._scenes():
                self._add(scene)
                if self._stopped.is_set():
                    break
        except GLaMMError as error:
            self.problem = one_line(error)
        finally:
            self._has_images.set()

    def _scenes(self) -> Iterator[SceneSections]:
        return self._run.scenes(stages=annotation_stages(self._run))

    def _add(self, scene: SceneSections) -> None:
        section, image = scene.sections.get(ANNOTATIONS), scene.sections.get(IMAGE)
        entry = None
        if section is not None and image is not None:
            confidence = record_confidence(read_record(section), is_partial=bool(scene.errors))
            digest = record_digest(section, image)
            entry = QueueEntry(confidence.value, scene.image_id, digest)
        with self._lock:
            self.read += 1
            if entry is not None:
                self._place(entry)
        if entry is not None:
            self._has_images.set()

    def _place(self, entry: QueueEntry) -> None:
        old = self._entries.get(entry.image_id)
        if old == entry:
            return
        if old is not None:  # it was computed again while it was reviewed
            self._order.remove(old)
            self._counts[self._states[entry.image_id]] -= 1
        self._entries[entry.image_id] = entry
        insort(self._order, entry, key=lambda item: (item.confidence, item.image_id))
        self._states[entry.image_id] = state = self._state(entry)
        self._counts[state] += 1

    def _state(self, entry: QueueEntry) -> str:
        review = self.log.review(entry.image_id, entry.record)
        return UNREVIEWED if review is None else review.state

    # ------------------------------------------------------------------ questions

    @property
    def num_images(self) -> int:
        """Number of images of the run."""
        return len(self._places)

    def place(self, image_id: str) -> ImagePlace | None:
        """Return where an image is in the run; None if the run does not have it."""
        if image_id not in self._places:
            return None
        return ImagePlace(*self._places[image_id], ImageEntry(image_id, self._files[image_id]))

    def update(self, image_id: str, record: str, confidence: RecordConfidence) -> None:
        """Enter an image that was read by itself.

        Args:
            image_id: of the image.
            record: sha256 of its automatic record.
            confidence: of the record.
        """
        with self._lock:
            self._place(QueueEntry(confidence.value, image_id, record))

    def refresh(self) -> None:
        """Take over decisions, those of other processes included.

        Raises:
            DecisionError: the file of decisions is damaged.
        """
        self.log.refresh()
        with self._lock:
            images = self.log.images_since(self._sequence)
            self._sequence += len(images)
            for image_id in images:
                entry = self._entries.get(image_id)
                if entry is not None:
                    state = self._state(entry)
                    self._counts[self._states[image_id]] -= 1
                    self._counts[state] += 1
                    self._states[image_id] = state

    def counts(self) -> dict[str, int]:
        """Return the number of images in each state, of those whose record was read."""
        with self._lock:
            return {state: self._counts[state] for state in STATES}

    def listing(self, state: str, offset: int, limit: int) -> tuple[int, list[QueueEntry]]:
        """Return the number of images in a state, and some of them, in the order of confidence.

        Args:
            state: one of `STATES`, or `ALL`.
            offset: number of images to leave out.
            limit: largest number of images.
        """
        with self._lock:
            entries = [item for item in self._order if self._is_in(item.image_id, state)]
        return len(entries), entries[offset : offset + limit]

    def state(self, image_id: str) -> str:
        """Return the state of an image whose record was read."""
        with self._lock:
            return self._states.get(image_id, UNREVIEWED)

    def _is_in(self, image_id: str, state: str) -> bool:
        own = self._states[image_id]
        # What was reviewed for other annotations has to be reviewed again.
        return state in (ALL, own) or (state == UNREVIEWED and own == OUTDATED)

    def next_image(self, state: str, session: str, current: str | None = None) -> str | None:
        """Return the image to review next: the one with the lowest confidence.

        Those that the session has passed come when there are no others, and those that other
        sessions have open after them.

        Args:
            state: one of `STATES`, or `ALL`.
            session: name of the page that asks.
            current: the image that it shows, which is not chosen.

        Returns:
            None if there is no other image in this state.
        """
        self._has_images.wait(FIRST_SECONDS)
        with self._lock:
            own = self._session(session)
            if current is not None:
                own.passed.add(current)
            leased = self._leased(session)
            candidates = [
                item.image_id
                for item in self._order
                if item.image_id != current and self._is_in(item.image_id, state)
            ]
            for excluded in (own.passed | leased, leased, frozenset()):
                choice = next((name for name in candidates if name not in excluded), None)
                if choice is not None:
                    if choice in own.passed:
                        own.passed.clear()
                    return choice
            return None

    def open_image(self, image_id: str, session: str) -> bool:
        """Remember that a session shows an image; returns whether another one does."""
        with self._lock:
            is_leased = image_id in self._leased(session)
            own = self._session(session)
            own.image_id, own.time = image_id, self._clock()
            return is_leased

    def _session(self, name: str) -> ReviewSession:
        if name not in self._sessions and len(self._sessions) >= MAX_SESSIONS:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].time)
            del self._sessions[oldest]
        return self._sessions.setdefault(name, ReviewSession(time=self._clock()))

    def _leased(self, session: str) -> set[str]:
        start = self._clock() - LEASE_SECONDS
        return {
            item.image_id
            for name, item in self._sessions.items()
            if name != session and item.image_id is not None and item.time > start
        }

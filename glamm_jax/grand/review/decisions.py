"""The decisions of persons about the images of a run: a file to which lines are appended.

    log = DecisionLog(run.path)
    log.append(DecisionRequest("dog.jpg", base=0, author="ann", action="approve", record=sha256))
    log.review("dog.jpg", sha256).state                 # "approved"

RUN/review/decisions.jsonl has a JSON object a line, see docs/annotate-formats.md. Nothing in it is
ever changed: taking a decision back is another decision, `undo`. `sequence` counts the lines,
`base` is the number of earlier decisions about the same image, so that a person who did not see
the last one is refused. A decision is about one automatic record, which `record` identifies: it
does not apply to another one, and applies again where that one returns.

A line is complete and synchronised before `append` returns. What stands behind the last newline was
being written when its process ended; readers ignore it, and the next `append` removes it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from etils import epath

from glamm_jax.errors import GLaMMError
from glamm_jax.files import FileLock
from glamm_jax.grand.chunks import is_local
from glamm_jax.grand.record import RecordReview, ReviewState, encode_json
from glamm_jax.grand.review.correction import Correction, check_keys, checked_text
from glamm_jax.grand.stages import Section, one_line
from glamm_jax.json_files import JSONError, JSONObject, parse_json, show
from glamm_jax.line_log import remove_unfinished_line

FOLDER, FILE = "review", "decisions.jsonl"
SCHEMA = 1
MAX_LINE_BYTES = 64 << 20
MAX_AUTHOR = 80  # characters
Action = Literal["approve", "discard", "correct", "undo"]
ACTIONS: tuple[Action, ...] = get_args(Action)
STATES: Mapping[str, ReviewState] = {
    "approve": "approved",
    "discard": "discarded",
    "correct": "corrected",
}
KEYS = (
    *("schema", "sequence", "image", "base", "record", "author", "time", "action"),
    "correction",
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SHA256 = re.compile("[0-9a-f]{64}")


class DecisionError(GLaMMError):
    """The file of decisions cannot be read or written. Names the line, and says why."""


class DecisionConflictError(GLaMMError):
    """Somebody else decided about the image meanwhile. Says who, when and what."""


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """A decision that is to be appended.

    Attributes:
        image_id: of the image.
        base: number of decisions about the image that the author knows.
        author: name.
        action: what was decided.
        record: sha256 of the automatic record, by `record_digest`.
        correction: for "correct".
    """

    image_id: str
    base: int
    author: str
    action: Action
    record: str
    correction: Correction | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that was appended; its correction stays in the file.

    Attributes:
        sequence: number of its line, from 1.
        image_id: of the image.
        base: number of earlier decisions about the image.
        author: name.
        time: in UTC, "2026-11-30T02:12:05Z".
        action: what was decided.
        record: sha256 of the automatic record.
        offset: of its line in the file, in bytes.
    """

    sequence: int
    image_id: str
    base: int
    author: str
    time: str
    action: Action
    record: str
    offset: int


def record_digest(section: Section, image: Section) -> str:
    """Return the sha256 that identifies the automatic record of an image.

    Args:
        section: of the stage `annotations`.
        image: section of the stage `image`: another photograph has another record.
    """
    text = f"{image.get('sha256', '')}\n{encode_json(section['record'])}"
    return hashlib.sha256(text.encode()).hexdigest()


def effective(decisions: Sequence[Decision], record: str) -> list[Decision]:
    """Return the decisions about a record that were not taken back.

    Args:
        decisions: all of the image, in order.
        record: sha256 of the record.
    """
    result: list[Decision] = []
    for item in decisions:
        if item.record != record:
            continue
        if item.action == "undo":
            result.pop()
        else:
            result.append(item)
    return result


class DecisionLog:
    """The decisions of a run. Threads and processes may share the file.

    Attributes:
        path: of the file; it is created with the first decision.
        removed_bytes: of unfinished lines that this object removed.
    """

    def __init__(self, run_path: epath.Path):
        """Read the file, if there is one.

        Args:
            run_path: the run folder; decisions in a bucket are read once, and none is written.

        Raises:
            DecisionError: it cannot be read, or has a line that is no decision.
        """
        self.path = run_path / FOLDER / FILE
        self.removed_bytes = 0
        self._decisions: dict[str, list[Decision]] = {}
        self._images: list[str] = []  # of each line
        self._end = 0
        self._object: bytes | None = None  # content of the object in a bucket
        self._lock = threading.RLock()
        self.refresh()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def image_ids(self) -> list[str]:
        """The images that there are decisions about."""
        return list(self._decisions)

    def decisions(self, image_id: str) -> Sequence[Decision]:
        """Return all decisions about an image, in order."""
        return self._decisions.get(image_id, ())

    def review(self, image_id: str, record: str) -> RecordReview | None:
        """Return what was decided about a record of an image; None: nothing.

        Args:
            image_id: of the image.
            record: sha256 of its automatic record.
        """
        decisions = self.decisions(image_id)
        applied = effective(decisions, record)
        if applied:
            authors = tuple(dict.fromkeys(item.author for item in applied))
            state = STATES[applied[-1].action]
            return RecordReview(state, authors, applied[-1].time, len(decisions))
        others = {item.record for item in decisions} - {record}
        left = [item for other in others for item in effective(decisions, other)]
        if not left:
            return None
        left.sort(key=lambda item: item.sequence)
        authors = tuple(dict.fromkeys(item.author for item in left))
        return RecordReview("outdated", authors, left[-1].time, len(decisions))

    def correction(self, image_id: str, record: str) -> Correction | None:
        """Return the last correction of a record that was not taken back; None: there is none.

        Args:
            image_id: of the image.
            record: sha256 of its automatic record.

        Raises:
            DecisionError: the file was changed.
        """
        for item in reversed(effective(self.decisions(image_id), record)):
            if item.action == "correct":
                return self._read_correction(item)
        return None

    def _read_correction(self, decision: Decision) -> Correction:
        with self._open() as file:
            file.seek(decision.offset)
            line = file.readline(MAX_LINE_BYTES + 1)
        again, correction = self._parse(line, decision.offset, decision.sequence)
        if again != decision or correction is None:
            raise DecisionError(
                f"{self.path}: line {decision.sequence} was changed while it was in use"
            )
        return correction

    # ------------------------------------------------------------------ reading

    def _open(self) -> io.BufferedIOBase:
        try:
            if is_local(self.path):
                return open(self.path, "rb")
            if self._object is None:
                self._object = self.path.read_bytes()
            return io.BytesIO(self._object)
        except FileNotFoundError:
            return io.BytesIO()
        except OSError as error:
            raise DecisionError(
                f"{self.path}: cannot be read: {error.strerror or error}"
            ) from error

    def images_since(self, sequence: int) -> list[str]:
        """Return the images of the decisions behind a sequence number, in order."""
        return self._images[sequence:]

    def refresh(self) -> None:
        """Read the lines that were appended since.

        Raises:
            DecisionError: the file cannot be read, or has a line that is no decision.
        """
        with self._lock, self._open() as file:
            size = file.seek(0, io.SEEK_END)
            if size < self._end:
                raise DecisionError(f"{self.path}: became shorter; decisions are only appended")
            file.seek(self._end)
            for offset, line in self._lines(file):
                decision, _ = self._parse(line, offset, len(self) + 1)
                self._add(decision)
                self._end = offset + len(line)

    def _lines(self, file: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
        """Yield the complete lines from here on, with their offsets."""
        offset = file.tell()
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise DecisionError(
                    f"{self.path}: line {len(self) + 1} has more than {MAX_LINE_BYTES} bytes"
                )
            if not line.endswith(b"\n"):
                return
            yield offset, line
            offset += len(line)

    def _parse(self, line: bytes, offset: int, number: int) -> tuple[Decision, Correction | None]:
        where = f"{self.path}: line {number}"
        try:
            fields = JSONObject(parse_json(line, where), where)
            check_keys(fields, KEYS)
            fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
            fields.integer("sequence", minimum=number, maximum=number)
            decision = Decision(
                number,
                checked_text(fields, "image", MAX_LINE_BYTES),
                fields.integer("base", minimum=0),
                checked_author(fields),
                _matching(fields, "time", _TIME),
                cast(Action, _matching(fields, "action", re.compile("|".join(ACTIONS)))),
                _matching(fields, "record", _SHA256),
                offset,
            )
            datetime.fromisoformat(decision.time)
            is_correction = decision.action == "correct"
            if is_correction is not ("correction" in fields):
                raise JSONError(
                    f"{where}: {decision.action!r} has "
                    + ("no correction" if is_correction else "a correction")
                )
            correction = None
            if is_correction:
                correction = Correction.from_json(
                    fields.value("correction"), f"{where}: correction"
                )
        except JSONError as error:
            raise DecisionError(f"{one_line(error)}; see docs/annotate-formats.md") from error
        except ValueError as error:  # the 31st of February
            raise DecisionError(f"{where}: time: {one_line(error)}") from error
        return decision, correction

    def _add(self, decision: Decision) -> None:
        where = f"{self.path}: line {decision.sequence}"
        earlier = self._decisions.get(decision.image_id, [])
        if decision.base != len(earlier):
            raise DecisionError(
                f"{where}: base = {decision.base}, but there are {len(earlier)} earlier decisions "
                f"about image {show(decision.image_id)}"
            )
        if decision.action == "undo" and not effective(earlier, decision.record):
            raise DecisionError(f"{where}: there is nothing to undo")
        self._decisions.setdefault(decision.image_id, []).append(decision)
        self._images.append(decision.image_id)

    # ------------------------------------------------------------------ writing

    def append(
        self,
        request: DecisionRequest,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Decision:
        """Append a decision.

        Args:
            request: the decision.
            clock: returns the time.

        Raises:
            DecisionConflictError: there is a later decision about the image.
            DecisionError: the file cannot be read or written, or the decision is none.
        """
        if not is_local(self.path):
            raise DecisionError(f"{self.path}: decisions are written on a file system only")
        path = Path(self.path)
        try:
            path.parent.mkdir(exist_ok=True)
            with self._lock:
                lock = FileLock(path.parent / ".lock", str(path), wait=True)
                try:
                    return self._append(request, path, clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
                finally:
                    lock.close()
        except OSError as error:
            raise DecisionError(
                f"{path}: cannot be written: {error.strerror or error}; nothing was saved"
            ) from error

    def _append(self, request: DecisionRequest, path: Path, time: str) -> Decision:
        self.refresh()
        earlier = self.decisions(request.image_id)
        if request.base != len(earlier):
            raise DecisionConflictError(_conflict(request, earlier))
        if request.action == "undo" and not effective(earlier, request.record):
            raise DecisionConflictError("there is no decision about this image to undo")
        fields: dict[str, object] = {
            "schema": SCHEMA,
            "sequence": len(self) + 1,
            "image": request.image_id,
            "base": request.base,
            "record": request.record,
            "author": request.author,
            "time": time,
            "action": request.action,
        }
        if request.correction is not None:
            fields["correction"] = request.correction.to_json()
        line = (encode_json(fields) + "\n").encode()
        if len(line) > MAX_LINE_BYTES:
            raise DecisionError(f"the correction has more than {MAX_LINE_BYTES} bytes")
        decision, _ = self._parse(line, self._end, len(self) + 1)  # as every reader will
        self._write(path, line)
        self._add(decision)
        self._end += len(line)
        return decision

    def _write(self, path: Path, line: bytes) -> None:
        is_new = not path.exists()
        if not is_new:
            self.removed_bytes += path.stat().st_size - self._end
            remove_unfinished_line(path)
        with path.open("ab", buffering=0) as file:
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), self._end)
                raise
        if is_new:
            for folder in (path.parent, path.parent.parent):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def is_author(name: str) -> bool:
    """Whether a text can be the name of an author: printable, and no blanks around it."""
    return name == name.strip() and 0 < len(name) <= MAX_AUTHOR and name.isprintable()


def checked_author(fields: JSONObject) -> str:
    """Return the field `author`: a name of at most `MAX_AUTHOR` characters.

    Raises:
        JSONError: it is empty, too long, or has characters that cannot be shown.
    """
    name = checked_text(fields, "author", MAX_AUTHOR)
    if not is_author(name):
        raise JSONError(f"{fields.place('author')} = {show(name)} is not a name")
    return name


def _matching(fields: JSONObject, name: str, pattern: re.Pattern[str]) -> str:
    text = fields.text(name)
    if not pattern.fullmatch(text):
        raise JSONError(f"{fields.place(name)} = {show(text)} is not {_FORMS[name]}")
    return text


_FORMS: Mapping[str, str] = {
    "time": "a time in UTC such as 2026-11-30T02:12:05Z",
    "action": f"one of {', '.join(ACTIONS)}",
    "record": "a sha256",
}


def _conflict(request: DecisionRequest, earlier: Sequence[Decision]) -> str:
    if request.base > len(earlier):
        return (
            f"base = {request.base}, but there are only {len(earlier)} decisions about this image"
        )
    last = earlier[-1]
    done = "took a decision back" if last.action == "undo" else f"{STATES[last.action]} it"
    return (
        f"{last.author} {done} at {last.time}, after you opened this image; nothing was saved: "
        "look at the newer version first"
    )

"""The folder of a run: the list of images, the chunks of every stage, and what is finished.

    RUN/manifest.json                      number of images, size of chunks, sha256 of the list
    RUN/images.jsonl                       the list: one line per image, in the order of the ids
    RUN/graph.json                         the stages of the last run
    RUN/stages/STAGE/FINGERPRINT/stage.json                        settings and models of the stage
    RUN/stages/STAGE/FINGERPRINT/chunk-00012-of-01100.jsonl        its sections
    RUN/statistics/STAGE/FINGERPRINT/chunk-00012-of-01100.jsonl    counts, seconds, worker: JSON
    RUN/quarantine/STAGE/FINGERPRINT/chunk-00012-of-01100.txt      why a chunk failed several times
    RUN/review/decisions.jsonl             decisions of persons, see `review.decisions`
    RUN/stamps/..., RUN/unread/...                                 see `photograph_changes`
    RUN/.lock, RUN/.workers.lock           while a run writes the folder; not in buckets

    run = AnnotationRun.create("out/run", scan_images("photos"), root="photos")
    for scene in run.scenes(graph):
        print(scene.image_id, scene.status, scene.sections["image"])

FINGERPRINT has the first 12 digits. Other settings give other folders, so results of several
configurations lie side by side, and going back to an earlier one computes nothing again.

Two runs cannot write one folder at a time on a file system with locks. Buckets have none: there two
runs would do the same work twice, and write the same bytes to the same names.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from etils import epath

from glamm_jax.files import FileLock
from glamm_jax.grand.chunks import (
    TEMPORARY,
    Outcome,
    RunFolderError,
    chunk_index,
    chunk_name,
    decode_chunk,
    is_local,
    list_names,
    path_name,
    read_file,
    write_file,
)
from glamm_jax.grand.stages import (
    FORMAT,
    REJECTED,
    SKIPPED,
    Section,
    StageError,
    StageGraph,
    one_line,
)
from glamm_jax.json_files import JSONError, JSONObject, parse_json

DEFAULT_CHUNK_SIZE = 200
COUNTS = ("done", "failed", "skipped", "rejected")
_SORTED_IN_MEMORY = 10_000  # lines of the list of images
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image of a run.

    Attributes:
        image_id: unique in the run.
        file: path relative to the folder of the photographs, with "/".
    """

    image_id: str
    file: str


@dataclass(frozen=True, slots=True)
class SceneSections:
    """All that a run made of an image.

    Attributes:
        image_id: of the run.
        file: path relative to the folder of the photographs.
        sections: by stage.
        errors: of the stages that have no section.
        attempts: number of the attempt that gave each.
    """

    image_id: str
    file: str
    sections: dict[str, Section]
    errors: dict[str, StageError]
    attempts: dict[str, int]

    @property
    def status(self) -> str:
        """ "ok", "partial" if a stage has an error, "rejected" if the image cannot be used."""
        if any(error.kind == REJECTED for error in self.errors.values()):
            return REJECTED
        return "partial" if self.errors else "ok"


@dataclass(frozen=True)
class StageStatus:
    """How much of a stage is finished.

    Attributes:
        name: of the stage.
        fingerprint: of the stage.
        total: number of images.
        done: images with a section.
        failed: images with an error of this stage.
        skipped: images that another stage failed on.
        rejected: images that cannot be used.
        missing: images whose chunk is not finished.
        quarantined: chunks that failed several times.
        seconds: of all its chunks, summed over workers.
    """

    name: str
    fingerprint: str
    total: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    rejected: int = 0
    missing: int = 0
    quarantined: tuple[int, ...] = ()
    seconds: float = 0.0


def count_outcomes(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the number of images by `COUNTS`."""
    counts = Counter(_count_name(outcome.error) for outcome in outcomes)
    return {name: counts[name] for name in COUNTS}


def _count_name(error: StageError | None) -> str:
    if error is None:
        return "done"
    return error.kind if error.kind in (REJECTED, SKIPPED) else "failed"


@dataclass(frozen=True)
class AnnotationRun:
    """The folder of a run; made by `create` or `open`. It can be sent to other processes.

    Attributes:
        path: of the folder; may be in a bucket.
        root: folder of the photographs.
        num_images: of the run.
        chunk_size: images per chunk; the last one may have fewer.
        images_sha256: of the list of images.
        offsets: of the first line of each chunk in the list.
    """

    path: epath.Path
    root: str
    num_images: int
    chunk_size: int
    images_sha256: str
    offsets: tuple[int, ...] = field(repr=False)

    @classmethod
    def create(
        cls,
        path: epath.PathLike,
        images: Iterable[ImageEntry],
        root: epath.PathLike,
        chunk_size: int | None = None,
    ) -> AnnotationRun:
        """Create a run folder, or open the one that exists if it is of the same images.

        Args:
            path: of the folder.
            images: of the run, in any order; they are not held in memory.
            root: folder of the photographs. It may change: only the list must be the same.
            chunk_size: images per chunk; None: as in the folder, or 200.

        Raises:
            RunFolderError: there are no images, two have one id, the folder is of other images or
                another chunk size, or it cannot be written.
            FolderError: another process creates it.
        """
        folder = epath.Path(path)
        if chunk_size is not None and chunk_size < 1:
            raise RunFolderError(f"chunk_size {chunk_size} is below 1")
        old = cls.open(folder) if (folder / "manifest.json").exists() else None
        size = chunk_size or (old.chunk_size if old else DEFAULT_CHUNK_SIZE)
        photographs = os.fspath(root)
        if "://" not in photographs:
            photographs = os.path.abspath(photographs)
        try:
            with tempfile.TemporaryFile() as file:
                sha, number, offsets = _write_list(images, file, size)
                new = cls(folder, photographs, number, size, sha, tuple(offsets))
                if old is not None:
                    _check_same(old, new)
                if old is None or old.root != new.root:
                    new._publish(file, with_list=old is None)
        except OSError as error:
            raise RunFolderError(
                f"the list of images cannot be written to {tempfile.gettempdir()}: "
                f"{error.strerror or error}"
            ) from error
        return new

    @classmethod
    def open(cls, path: epath.PathLike) -> AnnotationRun:
        """Open an existing run folder.

        Raises:
            RunFolderError: it is none.
        """
        folder = epath.Path(path)
        where = folder / "manifest.json"
        try:
            fields = JSONObject(parse_json(read_file(where), str(where)), str(where))
            if fields.integer("format") != FORMAT:
                raise RunFolderError(
                    f"{folder}: written by another version of this program (format "
                    f"{fields.integer('format')}, this one is {FORMAT}); choose another folder"
                )
            return cls(
                folder,
                fields.text("root"),
                fields.integer("num_images", minimum=1),
                fields.integer("chunk_size", minimum=1),
                fields.text("images_sha256"),
                tuple(fields.fields["offsets"]),
            )
        except FileNotFoundError as error:
            raise RunFolderError(f"{folder}: not the folder of a run: no manifest.json") from error
        except (JSONError, KeyError, TypeError) as error:
            raise RunFolderError(f"{where}: {one_line(error)}") from error

    def _publish(self, file: IO[bytes], with_list: bool) -> None:
        manifest = {
            "format": FORMAT,
            "num_images": self.num_images,
            "chunk_size": self.chunk_size,
            "images_sha256": self.images_sha256,
            "root": self.root,
            "offsets": self.offsets,
        }
        with self._lock_file():
            if with_list:
                self._copy_list(file)
            text = json.dumps(manifest) + "\n"
            write_file(self.path / "manifest.json", text.encode())

    def _copy_list(self, file: IO[bytes]) -> None:
        target = self.path / "images.jsonl"
        # Complete when manifest.json exists, so it needs no temporary name.
        try:
            file.seek(0)
            with target.open("wb") as copy:
                while block := file.read(_COPY_BYTES):
                    copy.write(block)  # pyright: ignore[reportArgumentType]
                if is_local(target):
                    copy.flush()
                    os.fsync(copy.fileno())
        except OSError as error:
            raise RunFolderError(
                f"{target}: cannot be written: {error.strerror or error}; make space or change the "
                "permissions, and run the same command again"
            ) from error

    # ------------------------------------------------------------------ locks

    @contextmanager
    def _lock_file(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(Path(self.path, ".lock"), str(self.path)) if self.is_local else None
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from error
        with lock or ExitStack():
            yield

    @contextmanager
    def lock(self, orphan_seconds: float = 60.0) -> Iterator[None]:
        """Hold the folder for one run.

        Workers of a run that was killed finish the stage of their chunk before they end. They are
        waited for, so that this work is not done twice; if it takes too long, it is.

        Args:
            orphan_seconds: longest time to wait for such workers.

        Raises:
            FolderError: another run writes the folder.
        """
        with self._lock_file():
            if self.is_local:
                with open(self._workers_lock, "ab") as file:
                    _wait_for_lock(file.fileno(), orphan_seconds)
            yield

    @contextmanager
    def worker_lock(self) -> Iterator[None]:
        """Show the next run that this worker is still at work; for worker processes."""
        if not self.is_local:
            yield
            return
        with open(self._workers_lock, "ab") as file:
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @property
    def _workers_lock(self) -> Path:
        return Path(self.path, ".workers.lock")

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a file system, not in a bucket."""
        return is_local(self.path)

    # ------------------------------------------------------------------ images

    @property
    def num_chunks(self) -> int:
        return len(self.offsets)

    def images(self, chunk: int, limit: int | None = None) -> list[ImageEntry]:
        """Return the images of a chunk, in the order of the run.

        Args:
            chunk: its number.
            limit: return the first ones only.

        Raises:
            RunFolderError: the list is damaged.
        """
        first = chunk * self.chunk_size
        number = min(limit or self.chunk_size, self.chunk_size, self.num_images - first)
        where = self.path / "images.jsonl"
        try:
            with open(where, "rb") if self.is_local else where.open("rb") as file:
                file.seek(self.offsets[chunk])
                lines = [json.loads(line) for line in islice(file, number)]
            entries = [ImageEntry(line["id"], line["file"]) for line in lines]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{where}: cannot be read: {one_line(error)}") from error
        if len(entries) != number:
            raise RunFolderError(f"{where}: ends too early; the folder cannot be used")
        return entries

    # ------------------------------------------------------------------ chunks

    def stage_folder(self, name: str, fingerprint: str, kind: str = "stages") -> epath.Path:
        """Return the folder of a stage in "stages" or another of the folders above."""
        return self.path / kind / path_name(name) / fingerprint[:12]

    def chunk_path(
        self, name: str, fingerprint: str, chunk: int, kind: str = "stages"
    ) -> epath.Path:
        """Return the path of a file of a chunk.

        Args:
            name: of the stage.
            fingerprint: of the stage.
            chunk: its number.
            kind: "stages", "statistics", "quarantine", "stamps" or "unread".
        """
        file = chunk_name(chunk, self.num_chunks)
        if kind == "quarantine":
            file = file.replace(".jsonl", ".txt")
        return self.stage_folder(name, fingerprint, kind) / file

    def finished(self, name: str, fingerprint: str) -> set[int]:
        """Return the finished chunks of a stage."""
        names = list_names(self.stage_folder(name, fingerprint))
        indices = (chunk_index(file, self.num_chunks) for file in names)
        return {index for index in indices if index is not None}

    def quarantined(self, name: str, fingerprint: str) -> list[int]:
        """Return the chunks of a stage that failed several times, in order."""
        names = list_names(self.stage_folder(name, fingerprint, "quarantine"))
        texts = (file.replace(".txt", ".jsonl") for file in names if file.endswith(".txt"))
        indices = (chunk_index(file, self.num_chunks) for file in texts)
        return sorted(index for index in indices if index is not None)

    def outcomes(
        self, name: str, fingerprint: str, chunk: int, ids: Sequence[str]
    ) -> Iterator[Outcome]:
        """Yield what a stage made of the images of a finished chunk, line by line.

        Args:
            name: of the stage.
            fingerprint: of the stage.
            chunk: its number.
            ids: of its images.

        Raises:
            FileNotFoundError: the chunk is not finished.
            RunFolderError: the file is damaged.
        """
        with self._reader(name, fingerprint, chunk, ids) as outcomes:
            yield from outcomes

    @contextmanager
    def _reader(
        self, name: str, fingerprint: str, chunk: int, ids: Sequence[str]
    ) -> Iterator[Iterator[Outcome]]:
        """Open a chunk file; close it although not all of its lines were read."""
        path = self.chunk_path(name, fingerprint, chunk)
        with open(path, "rb") if self.is_local else path.open("rb") as file:
            yield decode_chunk(iter(file), ids, str(path))

    def prepare(self, graph: StageGraph) -> None:
        """Write what the stages are, and remove the temporary files of a run that was killed.

        Raises:
            RunFolderError: the folder has a stage whose fingerprint begins with the same digits, or
                it cannot be written.
        """
        for item in graph.describe():
            folder = self.stage_folder(item["name"], item["fingerprint"])
            for kind in ("stages", "statistics", "stamps", "unread"):
                parent = self.stage_folder(item["name"], item["fingerprint"], kind)
                for name in list_names(parent):
                    if TEMPORARY in name and self.is_local:
                        Path(parent, name).unlink(missing_ok=True)
            try:
                old = json.loads(read_file(folder / "stage.json"))
                if old["fingerprint"] != item["fingerprint"]:
                    raise RunFolderError(f"{folder}: of another stage; choose another folder")
            except FileNotFoundError:
                write_file(folder / "stage.json", json.dumps(item, indent=1).encode())
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, RunFolderError):
                    raise
                write_file(folder / "stage.json", json.dumps(item, indent=1).encode())
        text = json.dumps({"stages": graph.describe()}, indent=1)
        path = self.path / "graph.json"
        if not path.exists() or read_file(path) != text.encode():
            write_file(path, text.encode())

    def graph_description(self) -> list[dict[str, Any]]:
        """Return the stages of the last run, as `StageGraph.describe` gives them.

        Raises:
            RunFolderError: there was no run yet, or the file is damaged.
        """
        path = self.path / "graph.json"
        try:
            return JSONObject(parse_json(read_file(path), str(path)), str(path)).fields["stages"]
        except FileNotFoundError as error:
            raise RunFolderError(f"{self.path}: nothing was run yet: no graph.json") from error
        except (JSONError, KeyError) as error:
            raise RunFolderError(f"{path}: {one_line(error)}") from error

    def _fingerprints(self, graph: StageGraph | None) -> Mapping[str, str]:
        if graph is not None:
            return graph.fingerprints
        return {item["name"]: item["fingerprint"] for item in self.graph_description()}

    # ------------------------------------------------------------------ results

    def scenes(
        self, graph: StageGraph | None = None, stages: Sequence[str] | None = None
    ) -> Iterator[SceneSections]:
        """Yield all that was made of each image, one image in memory at a time.

        Args:
            graph: the stages; None: those of the last run.
            stages: names of those to read; None: all.

        Raises:
            RunFolderError: a file is damaged, or the folder has no run.
        """
        fingerprints = self._fingerprints(graph)
        names = list(fingerprints) if stages is None else list(stages)
        finished = {name: self.finished(name, fingerprints[name]) for name in names}
        for chunk in range(self.num_chunks):
            entries = self.images(chunk)
            ids = [entry.image_id for entry in entries]
            with ExitStack() as stack:
                readers = {
                    name: stack.enter_context(self._reader(name, fingerprints[name], chunk, ids))
                    for name in names
                    if chunk in finished[name]
                }
                for entry in entries:
                    yield _scene(entry, {name: next(item) for name, item in readers.items()})
                for reader in readers.values():
                    next(reader, None)  # raises if there are more lines

    def scene(self, image_id: str, graph: StageGraph | None = None) -> SceneSections:
        """Return all that was made of one image.

        Args:
            image_id: of the run.
            graph: the stages; None: those of the last run.

        Raises:
            RunFolderError: there is no such image, or as for `scenes`.
        """
        chunk = bisect_right(
            range(self.num_chunks), image_id, key=lambda item: self.images(item, 1)[0].image_id
        )
        entries = self.images(max(chunk - 1, 0))
        ids = [entry.image_id for entry in entries]
        if image_id not in ids:
            raise RunFolderError(f"{self.path}: has no image {image_id!r}")
        place = ids.index(image_id)
        outcomes: dict[str, Outcome] = {}
        for name, fingerprint in self._fingerprints(graph).items():
            with suppress(FileNotFoundError):  # not finished
                chunk_outcomes = self.outcomes(name, fingerprint, chunk - 1, ids)
                outcomes[name] = list(chunk_outcomes)[place]
        return _scene(entries[place], outcomes)

    def status(self, graph: StageGraph | None = None) -> list[StageStatus]:
        """Return how much of each stage is finished, by the listing and the statistics.

        Args:
            graph: the stages; None: those of the last run.

        Raises:
            RunFolderError: the folder has no run.
        """
        return [self._stage_status(*item) for item in self._fingerprints(graph).items()]

    def _stage_status(self, name: str, fingerprint: str) -> StageStatus:
        counts: Counter[str] = Counter()
        seconds, done = 0.0, 0
        finished = self.finished(name, fingerprint)
        for chunk in finished:
            numbers, time_spent = self._chunk_counts(name, fingerprint, chunk)
            counts.update(numbers)
            seconds += time_spent
            done += min(self.chunk_size, self.num_images - chunk * self.chunk_size)
        return StageStatus(
            name,
            fingerprint,
            self.num_images,
            **{count: counts[count] for count in COUNTS},
            missing=self.num_images - done,
            quarantined=tuple(
                chunk for chunk in self.quarantined(name, fingerprint) if chunk not in finished
            ),
            seconds=seconds,
        )

    def _chunk_counts(
        self, name: str, fingerprint: str, chunk: int
    ) -> tuple[dict[str, int], float]:
        path = self.chunk_path(name, fingerprint, chunk, "statistics")
        try:
            fields = json.loads(read_file(path))
            return {count: fields[count] for count in COUNTS}, fields["seconds"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Statistics are not synchronised: a power failure may have lost them.
            ids = [entry.image_id for entry in self.images(chunk)]
            return count_outcomes(self.outcomes(name, fingerprint, chunk, ids)), 0.0


def _scene(entry: ImageEntry, outcomes: Mapping[str, Outcome]) -> SceneSections:
    return SceneSections(
        entry.image_id,
        entry.file,
        {name: item.section for name, item in outcomes.items() if item.section is not None},
        {name: item.error for name, item in outcomes.items() if item.error is not None},
        {name: item.attempt for name, item in outcomes.items()},
    )


def _check_same(old: AnnotationRun, new: AnnotationRun) -> None:
    if old.images_sha256 != new.images_sha256:
        raise RunFolderError(
            f"{old.path}: made for another list of images ({old.num_images} images, now there are "
            f"{new.num_images}); choose another folder for these images, or restore the photographs"
        )
    if old.chunk_size != new.chunk_size:
        raise RunFolderError(
            f"{old.path}: its chunks have {old.chunk_size} images, not {new.chunk_size}; leave the "
            "size out, or choose another folder"
        )


def _wait_for_lock(descriptor: int, seconds: float) -> None:
    """Wait until no worker holds the file; not longer than `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        except OSError:  # no locks on this file system
            return


def _write_list(
    images: Iterable[ImageEntry], file: IO[bytes], chunk_size: int
) -> tuple[str, int, list[int]]:
    """Write the sorted list of images; return its sha256, length, and the offset of each chunk."""
    sha, number, offset = hashlib.sha256(), 0, 0
    offsets: list[int] = []
    last = None
    for image_id, name in _sorted(images):
        if image_id == last:
            raise RunFolderError(f"two images have the id {image_id!r}")
        last = image_id
        line = (json.dumps({"id": image_id, "file": name}) + "\n").encode()
        if number % chunk_size == 0:
            offsets.append(offset)
        sha.update(line)
        file.write(line)
        number, offset = number + 1, offset + len(line)
    if not number:
        raise RunFolderError("there are no images")
    return sha.hexdigest(), number, offsets


def _sorted(images: Iterable[ImageEntry]) -> Iterator[tuple[str, str]]:
    """Sort by id; more images than fit the memory are sorted in parts, on disk."""
    source = iter(images)
    with ExitStack() as stack:
        parts: list[Iterator[tuple[str, str]]] = []
        while True:
            part = sorted((item.image_id, item.file) for item in islice(source, _SORTED_IN_MEMORY))
            if len(part) < _SORTED_IN_MEMORY:
                yield from heapq.merge(*parts, part)
                return
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(item) + "\n" for item in part)
            file.seek(0)
            parts.append((item[0], item[1]) for item in map(json.loads, file))

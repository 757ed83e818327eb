"""Photographs that changed since they were annotated, and those that could not be read.

    write_stamps(run, fingerprint, chunk, files)            # in a worker, before it reads them
    changes = forget_changed(run, graph)                    # in the driver, before a run
    changes.replaced, changes.readable                      # numbers of photographs

A *stamp* is size and time of a file. A photograph whose stamp differs from the one of its last
reading is hashed; if its content differs as well, the chunk that it is in is forgotten: the files
of all its stages, of every configuration, are removed, so that the run computes them again. The
same happens to a chunk with photographs that could not be read and now can.

    RUN/stamps/image/FINGERPRINT/chunk-00012-of-01100.jsonl     a stamp for each image, as JSON
    RUN/unread/STAGE/FINGERPRINT/chunk-00012-of-01100.jsonl     files that could not be read
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

from etils import epath

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.chunks import (
    Outcome,
    RunFolderError,
    chunk_index,
    is_local,
    list_names,
    read_file,
    write_file,
)
from glamm_jax.grand.images import IMAGE, ImageReader
from glamm_jax.grand.run_folder import AnnotationRun, ImageEntry
from glamm_jax.grand.stages import UNREAD, StageGraph, UnreadError, one_line
from glamm_jax.json_files import JSONError, parse_json

STAMPS = "stamps"
MAX_NAMES = 5  # of photographs that are named
# A file that was written shortly before may change again and keep its time.
SETTLED_SECONDS = 2.0
UNSETTLED = " new"  # at the end of its stamp, which equals no other
# What the services of buckets call the version of an object, or its time.
_VERSION_FIELDS = (
    *("generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "last_modified"),
    *("updated", "modified", "created"),
)
Stamp = str | None  # None: the file is missing, or nothing is known


@dataclass(frozen=True)
class PhotographChanges:
    """What `forget_changed` found.

    Attributes:
        replaced: number of photographs with another content than the annotated one.
        readable: number of photographs that could not be read, and now can.
        chunks: number of chunks that are computed again.
        names: ids of the first of these photographs.
    """

    replaced: int = 0
    readable: int = 0
    chunks: int = 0
    names: tuple[str, ...] = ()


NO_CHANGES = PhotographChanges()


# ------------------------------------------------------------ in the workers


def write_stamps(run: AnnotationRun, fingerprint: str, chunk: int, files: Sequence[str]) -> None:
    """Write the stamps of the photographs of a chunk, before they are read.

    Args:
        run: the folder.
        fingerprint: of the stage `image`.
        chunk: its number.
        files: of its images, in order.

    Raises:
        RunFolderError: the file cannot be written.
    """
    if is_local(epath.Path(run.root)):
        stamps = _local_stamps(run.root, files)
    else:
        stamps = [_object_stamp(run.root, file) for file in files]
    _write_list(run, fingerprint, chunk, stamps)


def write_unread(
    run: AnnotationRun,
    stage: str,
    fingerprint: str,
    chunk: int,
    outcomes: Mapping[str, Outcome],
) -> None:
    """Write which photographs of a chunk a stage could not read, if there are such.

    Args:
        run: the folder.
        stage: its name.
        fingerprint: of the stage.
        chunk: its number.
        outcomes: of the stage by file.

    Raises:
        RunFolderError: the file cannot be written.
    """
    unread = [
        file
        for file, outcome in outcomes.items()
        if outcome.error is not None and outcome.error.kind == UNREAD
    ]
    if unread:
        path = run.chunk_path(stage, fingerprint, chunk, UNREAD)
        write_file(path, json.dumps(unread).encode())


# ------------------------------------------------------------ in the driver


def forget_changed(run: AnnotationRun, graph: StageGraph) -> PhotographChanges:
    """Remove the results of chunks whose photographs changed, or can be read now.

    Args:
        run: the folder; this process holds its lock.
        graph: the stages of the run.

    Raises:
        RunFolderError: the folder or the list of photographs cannot be read or written.
    """
    search = _Search(run)
    for fingerprint in _fingerprints(run, "stages", IMAGE):
        for chunk in sorted(run.finished(IMAGE, fingerprint)):
            search.compare(fingerprint, chunk)
    for name, fingerprint in graph.fingerprints.items():
        search.read_again(name, fingerprint)
    return search.forget()


class _Search:
    """Finds the chunks to be computed again."""

    def __init__(self, run: AnnotationRun):
        self._run = run
        self._reader = ImageReader(run.root, 0)
        self._listings: dict[str, dict[str, str]] = {}
        # Chunk -> ids of its photographs.
        self._replaced: dict[int, set[str]] = {}
        self._readable: dict[int, set[str]] = {}

    def compare(self, fingerprint: str, chunk: int) -> None:
        """Compare the photographs of a chunk with what a stage `image` read."""
        run = self._run
        entries = run.images(chunk)
        new = self._stamps([entry.file for entry in entries])
        old: list[Stamp] = _read_list(run.chunk_path(IMAGE, fingerprint, chunk, STAMPS))
        if len(old) != len(new):
            old = [None] * len(new)
        if all(a == b and _is_reliable(b) for a, b in zip(old, new, strict=True)):
            return
        outcomes = run.outcomes(IMAGE, fingerprint, chunk, [entry.image_id for entry in entries])
        stamps = list(old)
        for k, (entry, outcome) in enumerate(zip(entries, outcomes, strict=True)):
            if old[k] == new[k] and _is_reliable(new[k]):
                continue
            is_same = self._is_same(entry, outcome, old[k], new[k])
            if is_same:
                stamps[k] = new[k]
            elif is_same is False:
                self._replaced.setdefault(chunk, set()).add(entry.image_id)
        if stamps != old and chunk not in self._replaced:
            _write_list(run, fingerprint, chunk, stamps)

    def _stamps(self, files: Sequence[str]) -> list[Stamp]:
        root = self._run.root
        if is_local(epath.Path(root)):
            return _local_stamps(root, files)
        stamps: list[Stamp] = []
        for folder, _, name in (file.rpartition("/") for file in files):
            if folder not in self._listings:
                self._listings[folder] = _listed_stamps(f"{root.rstrip('/')}/{folder}")
            stamps.append(self._listings[folder].get(name))
        return stamps

    def _is_same(
        self, entry: ImageEntry, outcome: Outcome, before: Stamp, now: Stamp
    ) -> bool | None:
        """Whether a photograph has the content that an outcome is about; None: not known now."""
        if outcome.error is not None and outcome.error.kind == UNREAD:
            return None  # `read_again`
        if outcome.section is None:
            # The hash of what was rejected is not known.
            return _content_stamp(before) == _content_stamp(now) is not None
        try:
            data = self._reader.read_bytes(entry.file)
        except GLaMMError:
            return None
        return hashlib.sha256(data).hexdigest() == outcome.section["sha256"]

    def read_again(self, stage: str, fingerprint: str) -> None:
        """Try the photographs that a stage could not read."""
        run = self._run
        for name in list_names(run.stage_folder(stage, fingerprint, UNREAD)):
            chunk = chunk_index(name, run.num_chunks)
            if chunk is not None:
                files = _read_list(run.chunk_path(stage, fingerprint, chunk, UNREAD))
                readable = {file for file in files if self._can_be_read(file)}
                if readable:
                    self._readable.setdefault(chunk, set()).update(readable)

    def _can_be_read(self, file: Any) -> bool:
        try:
            self._reader.read_bytes(str(file))
        except UnreadError:
            return False
        except GLaMMError:  # the run says what is wrong with it
            pass
        return True

    def forget(self) -> PhotographChanges:
        """Remove the results of the chunks that were found."""
        chunks = sorted({*self._replaced, *self._readable})
        _forget_chunks(self._run, chunks)
        names = chain.from_iterable(
            sorted({*self._replaced.get(chunk, ()), *self._readable.get(chunk, ())})
            for chunk in chunks
        )
        return PhotographChanges(
            sum(map(len, self._replaced.values())),
            sum(map(len, self._readable.values())),
            len(chunks),
            tuple(islice(names, MAX_NAMES)),
        )


def _fingerprints(run: AnnotationRun, kind: str, stage: str) -> list[str]:
    """Return the names of the folders of a stage, given the name of its own folder."""
    return [name for name in list_names(run.path / kind / stage) if not name.startswith(".")]


def _forget_chunks(run: AnnotationRun, chunks: Sequence[int]) -> None:
    """Remove the files of chunks, of all stages and configurations.

    Those of the stage `image` are the last ones: until they are gone the next run finds the chunk
    again.
    """
    if not chunks:
        return
    for kind in ("stages", "quarantine", UNREAD):
        names = [run.chunk_path(IMAGE, "", chunk, kind).name for chunk in chunks]
        stages = (name for name in list_names(run.path / kind) if not name.startswith("."))
        for stage in sorted(stages, key=lambda name: name == IMAGE):
            for fingerprint in _fingerprints(run, kind, stage):
                for name in names:
                    _remove(run.path / kind / stage / fingerprint / name)


def _remove(path: epath.Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except FileNotFoundError:  # in buckets
        pass
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be removed: {error.strerror or error}") from error


def _read_list(path: epath.Path) -> list[Any]:
    """Return the content of a file; [] if it is missing or damaged."""
    with suppress(FileNotFoundError, JSONError):
        value = parse_json(read_file(path), str(path))
        if isinstance(value, list):
            return value
    return []


def _write_list(run: AnnotationRun, fingerprint: str, chunk: int, stamps: Sequence[Stamp]) -> None:
    path = run.chunk_path(IMAGE, fingerprint, chunk, STAMPS)
    write_file(path, json.dumps(stamps).encode(), durable=False)


# ------------------------------------------------------------ stamps


def _is_reliable(stamp: Stamp) -> bool:
    """Whether another content would have another stamp."""
    return stamp is not None and not stamp.endswith(UNSETTLED)


def _content_stamp(stamp: Stamp) -> Stamp:
    return None if stamp is None else stamp.removesuffix(UNSETTLED)


def _local_stamps(root: str, files: Sequence[str]) -> list[Stamp]:
    now = time.time()
    stamps: list[Stamp] = []
    for file in files:
        try:
            status = os.stat(f"{root}/{file}")
        except (OSError, ValueError):
            stamps.append(None)
            continue
        is_new = 0 <= now - status.st_mtime < SETTLED_SECONDS
        stamps.append(f"{status.st_size} {status.st_mtime_ns}{UNSETTLED if is_new else ''}")
    return stamps


def _object_stamp(root: str, file: str) -> Stamp:
    """Return the stamp of an object in a bucket."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(f"{root.rstrip('/')}/{file}")
        return _stamp_of(system.info(path))
    except Exception:  # clients of buckets raise exceptions of their own
        return None


def _listed_stamps(folder: str) -> dict[str, str]:
    """Return name -> stamp of the objects in a folder of a bucket, by one listing."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(folder.rstrip("/"))
        system.invalidate_cache()
        items = system.ls(path, detail=True)
    except Exception as error:  # clients of buckets raise exceptions of their own
        raise RunFolderError(f"{folder}: cannot be listed: {one_line(error)}") from error
    return {item["name"].rstrip("/").rpartition("/")[2]: _stamp_of(item) for item in items}


def _stamp_of(item: Mapping[str, Any]) -> str:
    version = next((item[x] for x in _VERSION_FIELDS if item.get(x) is not None), "")
    if isinstance(version, datetime):  # a number in the listings of some file systems
        version = version.timestamp()
    return f"{item.get('size')} {version}"

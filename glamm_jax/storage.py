"""Paths on this machine and in buckets of Google Cloud Storage.

    to_path("runs/tiny")           # pathlib.Path
    to_path("gs://bucket/run")     # etils.epath.Path; other services are a StorageError

A function with a parameter of type `AnyPath` works with both; one with `Path` needs a file system.
Both classes have the same methods for names, for reading and for listing. A bucket has no folders,
no renaming and no appending; an object appears when its last byte is written. The functions here
do what `epath.Path` cannot: conditional writes, appending, reading by ranges, moving folders.

Listings are not cached, since other processes write as well. Environment: STORAGE_EMULATOR_HOST
is another server, as for all clients of Google Cloud Storage.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import fsspec.config
from etils import epath

from glamm_jax.errors import GLaMMError

AnyPath: TypeAlias = Path | epath.Path

SCHEME = "gs"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # the service's rule for names
# Modules whose exceptions come from the service: no access, no credentials, no connection.
_CLIENTS = ("gcsfs", "google.auth", "google.api_core", "aiohttp", "requests")
_PART_BYTES, _NUM_UPLOADS = 16 << 20, 4
_NO_SUCH_RANGE = 416  # status of an answer: the object is shorter
_SECONDS = 300.0  # without a bound, a request that the service does not answer never ends
fsspec.config.conf["gcs"] = {
    "use_listings_cache": False,
    "requests_timeout": _SECONDS,
    **fsspec.config.conf.get("gcs", {}),
}


class StorageError(GLaMMError):
    """A path that cannot be used, or a bucket that cannot be reached. Names it."""


class ConditionError(StorageError):
    """An object is not of the generation that a write expects."""


class ObjectInfo(NamedTuple):
    """What the service knows about an object.

    Attributes:
        size: in bytes.
        crc32c: checksum, as base64.
        generation: number that changes with every write.
    """

    size: int
    crc32c: str
    generation: int


def to_path(text: str, other_urls: bool = False) -> AnyPath:
    """Return the path that a text names: on this machine, or in a bucket.

    Args:
        text: the path.
        other_urls: whether other URLs are returned as paths that do not exist, where the reader
            has a better message about them.

    Raises:
        StorageError: another service than Google Cloud Storage, no bucket, or the package for it
            is missing.
    """
    url = _URL.match(text)
    scheme = url[1].lower() if url else ""
    if url is None or (other_urls and scheme != SCHEME):
        return Path(text)
    if scheme != SCHEME:
        raise StorageError(
            f"{text}: {scheme}:// is not supported, only folders of this machine and gs://; "
            "download the files first"
        )
    bucket = text.removeprefix(f"{SCHEME}://").partition("/")[0]
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(f"{text}: no bucket; write gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise StorageError(f"{text}: needs the package gcsfs: pip install 'glamm-jax[gcs]'")
    return epath.Path(text.rstrip("/"))


def local_path(text: str, other_urls: bool = False) -> Path:
    """Return the path that a text names, where only a folder or file of this machine can be used.

    Args:
        text: the path.
        other_urls: as for `to_path`.

    Raises:
        StorageError: it is in a bucket, or as for `to_path`.
    """
    if _URL.match(text) and text.startswith(f"{SCHEME}:"):
        raise StorageError(
            f"{text}: cannot be in a bucket, since it is read or written on this machine only; "
            "copy it: gcloud storage cp -r FROM TO"
        )
    path = to_path(text, other_urls)
    assert isinstance(path, Path)
    return path


def absolute(path: AnyPath) -> AnyPath:
    """Return the absolute form of a path; one in a bucket is absolute."""
    return path.absolute() if isinstance(path, Path) else path


def make_folder(path: AnyPath) -> None:
    """Create a folder and those above it, where there are folders."""
    if isinstance(path, Path):  # of a bucket, gcsfs would create the bucket itself
        path.mkdir(parents=True, exist_ok=True)


def remove_folder(path: AnyPath) -> None:
    """Remove a folder and all that is in it, if it exists."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with service_errors(path), suppress(FileNotFoundError):
        bucket_files().rm(str(path), recursive=True)


def size_of(path: AnyPath) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size if isinstance(path, Path) else path.stat().length


def is_service_error(error: BaseException) -> bool:
    """Tell whether an exception comes from a client of the service."""
    return type(error).__module__.startswith(_CLIENTS)


# ------------------------------------------------------------------------------- in buckets only


def bucket_files() -> Any:
    """Return the fsspec file system of the buckets."""
    return fsspec.filesystem("gcs")


def put(path: epath.Path, content: bytes, generation: int | None = None) -> int:
    """Write an object in one request.

    Args:
        path: of the object.
        content: all of it; held in memory.
        generation: write only if the object is of this generation; 0: if it does not exist.

    Returns:
        The generation of the new object.

    Raises:
        ConditionError: it is of another generation.
        StorageError: it cannot be written.
    """
    files = bucket_files()
    bucket, key = _split(path)
    boundary = uuid.uuid4().hex
    body = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
        f"{json.dumps({'name': key})}\r\n"
        f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    ).encode() + content
    body += f"\r\n--{boundary}--\r\n".encode()
    conditions = {} if generation is None else {"ifGenerationMatch": str(generation)}
    with service_errors(path):
        try:
            answer = files.call(
                "POST",
                f"{files._location}/upload/storage/v1/b/{bucket}/o",
                uploadType="multipart",
                headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
                data=io.BytesIO(body),
                json_out=True,
                **conditions,
            )
        except FileExistsError as error:
            raise ConditionError(f"{path}: was written by another process meanwhile") from error
        except FileNotFoundError as error:
            raise StorageError(f"{path}: there is no bucket {bucket}") from error
        return int(answer["generation"])


def delete(path: epath.Path, generation: int | None = None) -> None:
    """Delete an object, only if it is of a generation; nothing happens without one."""
    bucket, key = _split(path)
    conditions = {} if generation is None else {"ifGenerationMatch": str(generation)}
    with service_errors(path), suppress(FileNotFoundError, FileExistsError):
        bucket_files().call("DELETE", "b/{}/o/{}", bucket, key, **conditions)


def append(path: epath.Path, content: bytes, generation: int | None = None) -> int:
    """Append to an object, or create it: the service joins it with a new one in one request.

    A process that is killed may leave the new one, NAME.part, behind; the next one replaces it.

    Args:
        path: of the object.
        content: what is appended.
        generation: that the object must have, 0: it must not exist; None: any.

    Returns:
        The generation of the longer object.

    Raises:
        ConditionError: another process has written the object.
        StorageError: it cannot be written.
    """
    old = object_info(path)
    if generation is not None and (old.generation if old else 0) != generation:
        raise ConditionError(f"{path}: was written by another process meanwhile")
    if old is None:
        return put(path, content, 0)
    part = path.with_name(f"{path.name}.part")
    put(part, content)
    bucket, key = _split(path)
    request = {"sourceObjects": [{"name": key}, {"name": _split(part)[1]}]}
    # The client repeats a request whose answer was lost: then they have been joined already.
    with service_errors(path), suppress(FileExistsError):
        bucket_files().call(
            *("POST", "b/{}/o/{}/compose", bucket, key),
            ifGenerationMatch=str(old.generation),
            headers={"Content-Type": "application/json"},
            data=json.dumps(request).encode(),
        )
    new = object_info(path)
    if new is None or new.size != old.size + len(content):
        raise ConditionError(f"{path}: was written by another process meanwhile")
    delete(part)
    return new.generation


def object_info(path: epath.Path) -> ObjectInfo | None:
    """Return size, checksum and generation of an object; None if there is none."""
    with service_errors(path):
        try:
            info = bucket_files().info(str(path))
        except FileNotFoundError:
            return None
    return None if info["type"] == "directory" else _info_of(info)


def objects_below(folder: epath.Path) -> dict[str, ObjectInfo]:
    """Return all objects below a folder by their relative names, with one listing."""
    prefix = "/".join(_split(folder)).rstrip("/") + "/"
    with service_errors(folder):
        found = bucket_files().find(str(folder), detail=True)
    return {
        name.removeprefix(prefix): _info_of(info)
        for name, info in found.items()
        if info["type"] != "directory" and not name.endswith("/")
    }


def read_range(path: epath.Path, start: int, end: int, generation: int | None = None) -> bytes:
    """Read a range of an object.

    Args:
        path: of the object.
        start: position of the first byte.
        end: position behind the last byte.
        generation: that the object must have; None: any.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: it has another generation or fewer bytes, or cannot be read.
    """
    if start >= end:
        return b""
    conditions = {} if generation is None else {"ifGenerationMatch": str(generation)}
    files = bucket_files()
    with service_errors(path):
        try:
            _, data = files.call(
                *("GET", files.url(str(path))),
                headers={"Range": f"bytes={start}-{end - 1}"},
                **conditions,
            )
        except FileExistsError:  # the generation is another one
            data = b""
        except Exception as error:
            if getattr(error, "code", None) != _NO_SUCH_RANGE:
                raise
            data = b""
    if len(data) != end - start:
        raise StorageError(
            f"{path}: {len(data)} bytes came from position {start} instead of {end - start}: it "
            "was replaced or truncated meanwhile"
        )
    return data


def upload_folder(source: Path, target: epath.Path, last: str) -> None:
    """Upload all files of a folder.

    Args:
        source: folder of this machine.
        target: folder of a bucket.
        last: name of the file that marks a complete folder; it is uploaded at the end.
    """
    names = sorted(str(x.relative_to(source)) for x in source.rglob("*") if x.is_file())
    groups = [[name for name in names if name != last], [name for name in names if name == last]]
    for group in groups:
        with ThreadPoolExecutor(_NUM_UPLOADS) as pool:
            list(pool.map(lambda name: _upload_file(source / name, target / name), group))


def _upload_file(source: Path, target: epath.Path) -> None:
    """Upload a file in parts; the object appears with the last one."""
    with service_errors(target), source.open("rb") as file:
        upload = bucket_files().open(str(target), "wb", block_size=_PART_BYTES)
        try:
            shutil.copyfileobj(file, upload, _PART_BYTES)
        except BaseException:
            upload.discard()
            raise
        upload.close()


def move_folder(source: AnyPath, target: AnyPath, marker: str) -> None:
    """Rename a folder. In a bucket, all of its objects are copied, then removed.

    Args:
        source: the folder.
        target: its new place.
        marker: name of the object that marks a complete folder in a bucket: it is copied last and
            removed first.
    """
    if isinstance(source, Path):
        source.rename(target)
        return
    names = sorted(objects_below(source), key=lambda name: name == marker)
    files = bucket_files()
    with service_errors(source):
        for name in names:
            files.cp_file(str(source / name), str(target / name))
        for name in reversed(names):
            files.rm_file(str(source / name))


@contextmanager
def service_errors(path: AnyPath) -> Iterator[None]:
    """Turn errors of the clients into `StorageError`, in one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError | FileExistsError) or not (
            is_service_error(error) or isinstance(error, OSError)
        ):
            raise
        raise StorageError(f"{path}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return the cause of an error of a client in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the bucket cannot be used: {text[:300]}"


def _split(path: epath.Path) -> tuple[str, str]:
    """Return bucket and name of an object."""
    bucket, _, key = str(path).removeprefix(f"{SCHEME}://").partition("/")
    return bucket, key


def _info_of(info: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(int(info["size"]), info.get("crc32c", ""), int(info.get("generation", 0)))

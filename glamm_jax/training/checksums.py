"""Checksums of a checkpoint: `checksums.json` has the size and the SHA-256 of all other files.

It is written by the first process, after the last byte of every process and before the folder gets
its final name: so every complete checkpoint of this version has it. Only then do the final files
exist, as the first process merges those of the others. It reads them back (from the page cache, on
a local disk) in threads, at 1 to 2 GB/s for each core, while the next steps run. They are also
synchronised with the disk.

In a bucket, the service has computed a CRC32C of every object. It is recorded instead of SHA-256,
so that nothing is read back.

Verification reads all files, which restoring does as well; several processes divide them. In a
bucket it compares what the service has, with one listing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath

from glamm_jax.files import sync, write_atomic
from glamm_jax.json_files import JSONError, read_json
from glamm_jax.storage import AnyPath, StorageError, objects_below

CHECKSUMS = "checksums.json"
# Orbax adds the time of the commit to this file after the checksums were computed.
_STEP_METADATA, _COMMIT_TIME = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
_NUM_THREADS = min(8, os.cpu_count() or 1)


def write_checksums(folder: AnyPath) -> None:
    """Write the checksums of a folder that is complete, and synchronise it with the disk."""
    files = _describe_and_sync(folder) if isinstance(folder, Path) else _describe_objects(folder)
    value = {"files": files, "sha256": _digest_of(files)}
    write_atomic(folder / CHECKSUMS, json.dumps(value, indent=0, sort_keys=True) + "\n")


def _describe_and_sync(folder: Path) -> dict[str, list[Any]]:
    """Return size and SHA-256 of every file of a folder, and synchronise it with the disk."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        files = dict(zip(names, pool.map(lambda name: _describe(folder, name), names), strict=True))
        list(pool.map(lambda name: sync(folder / name), names))
    for path in folder.rglob("*"):
        if path.is_dir():
            sync(path)
    return files


def _describe_objects(folder: epath.Path) -> dict[str, list[Any]]:
    """Return size and CRC32C of every object of a folder."""
    objects = objects_below(folder)
    return {
        name: _describe_metadata(folder / name) if name == _STEP_METADATA else [x.size, x.crc32c]
        for name, x in sorted(objects.items())
    }


def has_checksums(folder: AnyPath) -> bool:
    """Tell whether a checkpoint has checksums; those of earlier versions have none."""
    return (folder / CHECKSUMS).exists()


def damage(folder: AnyPath, part: int = 0, num_parts: int = 1) -> str:
    """Compare the files of a checkpoint with its checksums.

    Args:
        folder: of the checkpoint.
        part: which part of the files is read, from 0.
        num_parts: parts in which processes divide the files.

    Returns:
        "FILE: what is wrong with it", or "" if nothing is.
    """
    path = folder / CHECKSUMS
    try:
        value = read_json(path)
        files = dict(value["files"])
        if value["sha256"] != _digest_of(files):
            return f"{path}: damaged, its content does not have its own checksum"
    except (JSONError, OSError, KeyError, TypeError, ValueError) as error:
        return f"{path}: damaged, cannot be read ({error})"
    names: Sequence[str] = sorted(files)[part::num_parts]
    if not isinstance(folder, Path):
        return _damaged_object(folder, {name: files[name] for name in names})
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = pool.map(lambda name: _compare(folder, name, files[name]), names)
        return next(
            (f"{folder / name}: {x}" for name, x in zip(names, results, strict=True) if x), ""
        )


def _describe(folder: Path, name: str) -> list[Any]:
    """Return size and SHA-256 of a file."""
    path = folder / name
    if name == _STEP_METADATA:
        return _describe_metadata(path)
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _describe_metadata(path: AnyPath) -> list[Any]:
    """Return what identifies the content of _CHECKPOINT_METADATA without the time."""
    value = json.loads(path.read_bytes())
    value.pop(_COMMIT_TIME, None)
    return [0, _digest_of(value)]


def _damaged_object(folder: epath.Path, expected: Mapping[str, Any]) -> str:
    """Return "OBJECT: what is wrong with it", or "" if nothing is."""
    try:
        objects = _describe_objects(folder)
    except (OSError, ValueError, StorageError) as error:
        return f"{folder}: cannot be read ({error})"
    for name, description in expected.items():
        if name not in objects:
            return f"{folder / name}: is missing"
        if objects[name] != list(description):
            return f"{folder / name}: damaged, has another size or checksum than in {CHECKSUMS}"
    return ""


def _compare(folder: Path, name: str, expected: Any) -> str:
    """Return what is wrong with a file, or ""."""
    try:
        size, digest = _describe(folder, name)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"damaged, cannot be read ({error})"
    if [size, digest] == list(expected):
        return ""
    if size != expected[0]:
        return f"damaged, has {size} bytes instead of {expected[0]}"
    return f"damaged, its SHA-256 is not that in {CHECKSUMS}"


def _digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

"""The images of a run: a folder of photographs as a list, and the stage that opens them.

    images = scan_images("photos", on_refused=lambda name, reason: print(name, reason))
    run = AnnotationRun.create("out/run", images, root="photos")
    graph = StageGraph([image_stage()])

Every regular file is an image of the run, whatever its name. One that is no image, or that cannot
be used, is rejected by the stage, with the reason; the other stages skip it.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from glamm_jax.errors import GLaMMError
from glamm_jax.files import FileNameError, confined_file, read_regular_file
from glamm_jax.grand.chunks import RunFolderError, is_local
from glamm_jax.grand.roles import Pixels
from glamm_jax.grand.run_folder import ImageEntry
from glamm_jax.grand.stages import (
    REJECTED,
    UNREAD,
    Section,
    Stage,
    StageError,
    StageImage,
    UnreadError,
    one_line,
)

IMAGE = "image"  # name of the stage
HASH_SIDE = 8  # the hash has 8 x 8 bits
CACHED_BYTES = 256 << 20  # pixels that a worker holds
READ_DELAYS = (0.1, 0.4)  # seconds before a file that cannot be read is tried again
# Errors that do not pass in so short a time.
_LASTING = (FileNotFoundError, NotADirectoryError, PermissionError)
OnRefused = Callable[[str, str], Any]


@dataclass(frozen=True)
class ImageOptions:
    """Which images are used.

    Attributes:
        min_side: shortest side in pixels; a smaller image is rejected.
    """

    min_side: int = 16


# ------------------------------------------------------------ the list of images


def _ignore(name: str, reason: str) -> None:
    pass


def scan_images(
    root: epath.PathLike,
    on_refused: OnRefused = _ignore,
    exclude: Sequence[epath.PathLike] = (),
) -> Iterator[ImageEntry]:
    """Yield all regular files in a folder and the folders in it, in any order.

    The id of an image is its path in the folder, so that equal names in two folders, and equal
    stems with different extensions, are different images.

    Args:
        root: the folder; may be a link itself, or in a bucket.
        on_refused: called with name and reason for everything that is not taken: links, devices,
            hidden files and folders, and names that are not Unicode.
        exclude: folders to leave out, such as the run folder.

    Raises:
        RunFolderError: the folder cannot be read.
    """
    folder = epath.Path(root)
    try:
        if is_local(folder):
            excluded = {os.path.realpath(path) for path in exclude}
            yield from _scan_local(os.fspath(folder), "", on_refused, excluded)
        else:
            yield from _scan_bucket(folder, on_refused, {_without_scheme(path) for path in exclude})
    except OSError as error:
        raise RunFolderError(f"{root}: cannot be read: {error.strerror or error}") from error


def _scan_local(
    folder: str, prefix: str, on_refused: OnRefused, excluded: set[str]
) -> Iterator[ImageEntry]:
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            problem = _problem_of_name(entry.name) or _problem_of_kind(entry)
            if problem:
                on_refused(name, problem)
            elif not entry.is_dir():
                yield ImageEntry(name, name)
            elif os.path.realpath(entry.path) not in excluded:
                folders.append((entry.path, name + "/"))
    for path, inner in folders:
        yield from _scan_local(path, inner, on_refused, excluded)


def _problem_of_name(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return None


def _problem_of_kind(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "a link"
    if entry.is_dir() or entry.is_file():
        return None
    kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    names = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(kind, "a device")


def _scan_bucket(
    folder: epath.Path, on_refused: OnRefused, excluded: set[str]
) -> Iterator[ImageEntry]:
    for inner, _, names in folder.walk():
        path = _without_scheme(inner)
        if any(f"{path}/".startswith(f"{other}/") for other in excluded):
            continue
        place = path.removeprefix(_without_scheme(folder)).strip("/")
        for name in names:
            image_id = f"{place}/{name}" if place else name
            if any(part.startswith(".") for part in image_id.split("/")):
                on_refused(image_id, "hidden")
            else:
                yield ImageEntry(image_id, image_id)


def _without_scheme(path: epath.PathLike) -> str:
    return os.fspath(path).split("://", 1)[-1].strip("/")  # fsspec yields such paths


def listed_images(root: epath.PathLike, names: Iterable[str]) -> Iterator[ImageEntry]:
    """Yield the images of a list of paths in a folder.

    Args:
        root: folder of the photographs.
        names: paths relative to it, with "/".

    Raises:
        RunFolderError: there is no such file in the folder.
    """
    folder = epath.Path(root)
    for name in names:
        try:
            exists = (
                confined_file(Path(folder), name) is not None
                if is_local(folder)
                else ".." not in name.split("/") and (folder / name).exists()
            )
        except FileNameError as error:
            raise RunFolderError(str(error)) from error
        if not exists:
            raise RunFolderError(f"{root}: has no file {name!r}")
        yield ImageEntry(name, name)


# ------------------------------------------------------------ reading


class _NamedBytes(io.BytesIO):
    """A file in memory with a name, for messages."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name


class ImageReader:
    """Reads the images of a folder; keeps the pixels of the last ones.

    Stages that follow each other on one worker ask for the same pixels; decoding takes longer than
    most of them.
    """

    def __init__(self, root: epath.PathLike, cached_bytes: int = CACHED_BYTES):
        """Remember the folder.

        Args:
            root: folder of the photographs.
            cached_bytes: of pixels to keep.
        """
        self._root = epath.Path(root)
        self._is_local = is_local(self._root)
        self._free = cached_bytes
        self._cache: OrderedDict[str, Pixels] = OrderedDict()

    def read_bytes(self, file: str) -> bytes:
        """Return the content of a file; an error that may pass is tried again after a moment.

        Raises:
            UnreadError: it is missing or cannot be read now.
            FileNameError: it is no regular file, or too large.
        """
        for delay in (*READ_DELAYS, None):
            try:
                return self._read(file)
            except GLaMMError:
                raise
            except Exception as error:  # clients of buckets raise exceptions of their own
                if delay is None or isinstance(error, _LASTING):
                    raise UnreadError(f"{file}: {_read_problem(error)}") from error
                time.sleep(delay)
        raise AssertionError

    def _read(self, file: str) -> bytes:
        from glamm_jax.data.preprocess import MAX_IMAGE_BYTES  # its imports take a second

        if self._is_local:
            return read_regular_file(Path(self._root, file), MAX_IMAGE_BYTES)
        return (self._root / file).read_bytes()

    def pixels(self, file: str, data: bytes | None = None) -> Pixels:
        """Return the upright pixels of an image; read only.

        Args:
            file: path relative to the folder.
            data: its content, if it was read already.

        Raises:
            GLaMMError: as for `read_bytes`, or it is not an image that can be used.
        """
        if file in self._cache:
            return self._cache[file]
        from glamm_jax.data.preprocess import open_image

        pixels = open_image(_NamedBytes(self.read_bytes(file) if data is None else data, file))
        self._free -= pixels.nbytes
        self._cache[file] = pixels
        while self._free < 0 and self._cache:
            self._free += self._cache.popitem(last=False)[1].nbytes
        return pixels


def _read_problem(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {text or one_line(error) or type(error).__name__}"


# ------------------------------------------------------------ the stage


def image_stage(options: ImageOptions | None = None) -> Stage:
    """Return the stage that opens the images: the first one of every graph.

    Its sections have the keys file, sha256, bytes, height, width and dhash.
    """
    options = options or ImageOptions()
    return Stage(name=IMAGE, settings=options, process=partial(_open_images, options))


def _open_images(options: ImageOptions, images: Sequence[StageImage]) -> list[Section | StageError]:
    return [_open_image(options, image) for image in images]


def _open_image(options: ImageOptions, image: StageImage) -> Section | StageError:
    try:
        data = image.read_bytes()
        pixels = image.pixels(data)
    except GLaMMError as error:
        reason = one_line(str(error).removeprefix(f"{image.file}: "))
        if isinstance(error, UnreadError):
            return StageError(UNREAD, reason)
        if isinstance(error.__cause__, MemoryError):
            return StageError("memory", reason)
        return StageError(REJECTED, reason, IMAGE)
    height, width = pixels.shape[:2]
    if min(height, width) < options.min_side:
        reason = f"{width} x {height} pixels; a side has at least {options.min_side}"
        return StageError(REJECTED, reason, IMAGE)
    return {
        "file": image.file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "height": height,
        "width": width,
        "dhash": difference_hash(pixels),
    }


def difference_hash(pixels: Pixels) -> str:
    """Return the 64-bit difference hash of an image, as 16 hexadecimal digits.

    The image is reduced to 9 x 8 grey pixels; a bit says whether a pixel is darker than its right
    neighbour. Near-duplicates, such as other sizes and compressions of a photograph, differ in few
    bits (`hash_distance`).
    """
    from PIL import Image

    from glamm_jax.data.preprocess import to_pillow

    image = to_pillow(pixels).convert("L")
    small = image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX, reducing_gap=4.0)
    values = np.asarray(small)
    bits = np.packbits(values[:, :-1] < values[:, 1:])
    return bits.tobytes().hex()


def hash_distance(first: str, second: str) -> int:
    """Return the number of bits in which two difference hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()

"""The two LMDBs that pretraining of the original reads; our importer is `grand_lmdb`.

    OUT/GranD_Data/Grand_Referring_Expression_lmdb/data.mdb
    OUT/GranD_Data/Grand_Referring_Expression_lmdb/Grand_Referring_Expression_lmdb_{Train,Val}.txt
    OUT/GranD_Data/Grand_Caption_Grounding_lmdb/...
    OUT/GranD_Data/images/sa_1.jpg              where images are placed
    OUT/export.json

A key is the name of an image file, and a value {name: annotations} as JSON.
Source: GranD/prepare_annotations. Differs: an image without annotations of a kind has no entry, and
the lists of names, which the original does not make, divide the images by their hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, LISTS
from glamm_jax.errors import GLaMMError
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
)
from glamm_jax.grand.export.grand_json import DATA_FOLDER, IMAGES
from glamm_jax.grand.export.images import (
    REPEATED_NAME,
    UNSAFE_NAME,
    ExportItem,
    ImagePlacement,
    image_split,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.options import ReleasedExportOptions
from glamm_jax.grand.released_export import export_captions, export_referring

FORMAT = "lmdb"
PAPER = ReleasedExportOptions()
FIRST_MAP_BYTES = 1 << 28  # doubled when it is full
ENTRIES_PER_TRANSACTION = 1000


class MissingLibraryError(GLaMMError):
    """An optional library is not installed. Names the extra that has it."""


def export_lmdb(
    items: Iterable[ExportItem],
    out: Path,
    *,
    rules: ReleasedExportOptions = PAPER,
    filters: ExportFilters = NO_FILTERS,
    validation_share: float = 0.01,
    images: ImagePlacement = "none",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write the databases of referring expressions and of grounded short captions.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        rules: how the original's exports are made, with or without their defects.
        filters: what to leave out.
        validation_share: of the images, for the lists of names.
        images: whether to copy or link the image files.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
        MissingLibraryError: lmdb is not installed.
    """
    options = {"images": images, "validation_share": validation_share, "rules": asdict(rules)}
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder, ExitStack() as stack:
        data = folder / DATA_FOLDER
        expressions = stack.enter_context(_database(data / EXPRESSIONS))
        captions = stack.enter_context(_database(data / CAPTIONS))
        for image, record in filter_items(items, filters, summary, on_image):
            name = image.file_name
            if [name.strip()] != name.splitlines():  # the lists have one name in each line
                summary.dropped[UNSAFE_NAME] += 1
                continue
            if name in expressions or name in captions:
                summary.dropped[REPEATED_NAME] += 1
                continue
            if not place_image(image, data / IMAGES / name, images, summary.dropped):
                continue
            split = image_split(image, validation_share)
            entries = 0
            for kind, database, export in (
                ("referring expressions", expressions, export_referring),
                ("short captions", captions, export_captions),
            ):
                annotations = export(record, rules)
                if annotations is None:  # a missing mask loses the image, as in the original
                    summary.dropped[f"{kind}: missing mask"] += 1
                    continue
                if annotations:
                    database.add(name, annotations, split)
                    entries += 1
                summary.counts[kind] += len(annotations)
            summary.num_images += entries > 0
            summary.dropped["images: without annotations"] += entries == 0
    return summary


class _DatabaseWriter:
    """Writes one database, some entries in each transaction, and its lists of names."""

    def __init__(
        self, environment: Any, lists: Mapping[str, TextIO], map_full_error: type[Exception]
    ):
        self._environment, self._lists, self._map_full_error = environment, lists, map_full_error
        self._map_bytes = FIRST_MAP_BYTES
        self._pending: dict[bytes, bytes] = {}

    def __contains__(self, name: str) -> bool:
        key = name.encode()
        if key in self._pending:
            return True
        with self._environment.begin() as transaction:
            return transaction.get(key) is not None

    def add(self, name: str, annotations: Any, split: str) -> None:
        """Add an entry, and its name to the list of a split."""
        self._pending[name.encode()] = json_text({name: annotations}).encode()
        self._lists[split].write(f"{name}\n")
        if len(self._pending) >= ENTRIES_PER_TRANSACTION:
            self.flush()

    def flush(self) -> None:
        """Write the entries that are in memory."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending.items():
                        transaction.put(key, value)
                break
            except self._map_full_error:
                self._map_bytes *= 2
                self._environment.set_mapsize(self._map_bytes)
        self._pending.clear()


@contextmanager
def _database(folder: Path) -> Iterator[_DatabaseWriter]:
    """An empty database in a new folder, with an empty list of names for each split."""
    try:
        import lmdb
    except ImportError as error:
        raise MissingLibraryError(
            "the library lmdb is not installed: pip install 'glamm-jax[data]'"
        ) from error
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        lists = {
            split: stack.enter_context(
                open(folder / f"{folder.name}_{end}.txt", "x", encoding="utf-8", newline="\n")
            )
            for split, end in LISTS.items()
        }
        # Nothing else uses the database, and a lock file would differ from run to run.
        environment = stack.enter_context(
            lmdb.open(str(folder), map_size=FIRST_MAP_BYTES, lock=False, sync=False)
        )
        writer = _DatabaseWriter(environment, lists, lmdb.MapFullError)
        yield writer
        writer.flush()

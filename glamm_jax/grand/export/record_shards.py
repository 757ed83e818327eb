"""Record shards of `glamm_jax.data`, for the four tasks of pretraining.

    OUT/glamm_NAME/1.0.0/glamm_NAME-train.array_record-00000-of-00011
    OUT/glamm_NAME/1.0.0/export.json

With OUT "shards" and the name "grand", `python -m train --config configs/pretrain.py` trains on
them; TFDS reads them as well. Which annotations an image has (grand.md, 5.6):

    referring   attributes of objects with a mask; an attribute that several objects have refers to
                all of them, or is left out
    region      attributes of objects
    caption     short captions, and dense captions if wanted
    gcg         the dense caption, if a phrase has an object with a mask; filters drop captions that
                are not verified

The annotations are made in the order of the images and kept in a temporary file, because a shard
has its images in the order of their hashes. Memory is some hundred bytes for each image.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from glamm_jax.data.conversion import (
    IMAGES_PER_SHARD,
    INCONSISTENT,
    SourceReader,
    write_shard,
)
from glamm_jax.data.preprocess import ImageError, with_end_marker
from glamm_jax.data.record import Defect, ReadResult, Record, RecordError
from glamm_jax.data.record_shards import decode, encode
from glamm_jax.data.sources.dataset_files import ImageFile
from glamm_jax.data.sources.defects import DefectLog, quoted
from glamm_jax.data.sources.grand_texts import add_expressions
from glamm_jax.data.sources.phrase_spans import PhraseSpans
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.split_folder import VERSION, SplitFolder, dataset_name
from glamm_jax.errors import FolderError
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
)
from glamm_jax.grand.export.grand_json import released_stem
from glamm_jax.grand.export.images import (
    REPEATED_NAME,
    TRAIN,
    UNREADABLE,
    VALIDATION,
    AnnotatedImage,
    ExportItem,
    image_split,
)
from glamm_jax.grand.export.output import check_replaceable, write_summary
from glamm_jax.grand.export.record_texts import expressions, short_texts
from glamm_jax.grand.export.summary import SUMMARY_FILE, ExportSummary
from glamm_jax.grand.record import GrandObject, GrandRecord
from glamm_jax.json_files import JSONError, read_object

FORMAT = "shards"


@dataclass(frozen=True)
class RecordOptions:
    """Which annotations the records have.

    Attributes:
        repeated_expressions: an expression of several objects refers to their union, or is left
            out; as captions of the boxes they stay.
        dense_as_caption: the dense caption is a caption of the image, too.
    """

    repeated_expressions: Literal["union", "skip"] = "union"
    dense_as_caption: bool = False


ALL_ANNOTATIONS = RecordOptions()


def export_record_shards(
    items: Iterable[ExportItem],
    out: Path,
    *,
    name: str = "grand",
    options: RecordOptions = ALL_ANNOTATIONS,
    filters: ExportFilters = NO_FILTERS,
    validation_share: float = 0.01,
    images_per_shard: int = IMAGES_PER_SHARD,
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
    on_record: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write the splits "train" and "val".

    An export that was interrupted is continued with the shards that are missing.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder with all converted datasets.
        name: of the dataset.
        options: which annotations to write.
        filters: what to leave out.
        validation_share: of the images.
        images_per_shard: number of images in a shard.
        overwrite: replace an earlier export with the same name.
        on_image: called after every image that is read.
        on_record: called after every image that is written.

    Raises:
        FolderError: the folder is no earlier export, is being written, or cannot be written.
        ConversionError: the folder has another export, or cannot be written.
    """
    dataset = dataset_name(name)
    folder = out / dataset / VERSION
    stored = {**asdict(options), "name": name, "validation_share": validation_share}
    summary = ExportSummary(FORMAT, stored, filters.to_json())
    _check_destination(folder, overwrite)
    try:
        # Until the new export is complete, the jobs of its splits tell that the folder is ours.
        (folder / SUMMARY_FILE).unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryFile(dir=out)  # noqa: SIM115  # closed below
    except OSError as error:
        raise FolderError(f"{out}: cannot be written: {error.strerror or error}") from error
    with temporary as file:
        splits = {split: _StoredRecords(name, split, file) for split in (TRAIN, VALIDATION)}
        for image, record in filter_items(items, filters, summary, on_image):
            target = splits[image_split(image, validation_share)]
            if any(image.file_name in records for records in splits.values()):
                summary.dropped[REPEATED_NAME] += 1
                continue
            try:
                data = with_end_marker(image.read())
            except ImageError:
                summary.dropped[UNREADABLE] += 1
                continue
            try:
                target.add(
                    image.file_name, make_record(image, record, data, target.source, options)
                )
            except OSError as error:  # no space for the temporary file
                raise FolderError(f"{out}: cannot be written: {error.strerror or error}") from error
        for split, records in splits.items():
            _write_split(
                out, folder, split, records, images_per_shard, overwrite, summary, on_record
            )
    write_summary(folder, summary)
    return summary


def make_record(
    image: AnnotatedImage,
    record: GrandRecord,
    data: bytes,
    source: tuple[str, str],
    options: RecordOptions = ALL_ANNOTATIONS,
) -> ReadResult:
    """Return the record of an image, with the defects of its annotations.

    Args:
        image: whose record it is.
        record: its annotations.
        data: the bytes of the image file.
        source: names of the dataset and the split.
        options: which annotations the record has.
    """
    name, split = source
    log = DefectLog(f"{name} {quoted(image.file_name)}")
    builder = RecordBuilder(ImageFile(data, image.height, image.width), log)
    regions = _ObjectRegions(builder, record)
    texts = []
    for i, item in enumerate(record.objects):
        for text in expressions(item, log, f"object {i}"):
            region = regions.of_index(i)
            texts += [] if region is None else [(text, region)]
    _add_expressions(builder, texts, options)
    for text in short_texts(record):
        builder.add_annotation("caption", text)
    dense = record.dense_caption
    if dense is not None and dense.caption.strip():
        text, where = dense.caption.strip(), "dense caption"
        phrases = PhraseSpans(text, log, where)
        for grounding in dense.groundings:
            indices = [regions.of_id(object_id) for object_id in grounding.object_ids]
            masked = [i for i in indices if i is not None and builder.has_mask(i)]
            if masked:
                phrases.add_phrase(grounding.phrase, grounding.span, masked, may_be_stale=True)
        builder.add_grounded_caption(text, phrases, where)
        if options.dense_as_caption and phrases.links():
            builder.add_annotation("caption", text)
    return builder.build(released_stem(image.file_name), name, split)


def _add_expressions(
    builder: RecordBuilder, texts: Sequence[tuple[str, int]], options: RecordOptions
) -> None:
    if options.repeated_expressions == "skip":
        counts = Counter(text.lower() for text, region in texts if builder.has_mask(region))
        for text, region in texts:
            if counts[text.lower()] > 1 and builder.region_box(region) is not None:
                builder.add_annotation("region", text, [region])
        texts = [item for item in texts if counts[item[0].lower()] <= 1]
    add_expressions(builder, texts)


class _ObjectRegions:
    """Objects and floating objects; each becomes a region when a text refers to it."""

    def __init__(self, builder: RecordBuilder, record: GrandRecord):
        self._builder = builder
        self._items: list[GrandObject] = [*record.objects, *record.floating_objects]
        self._index_by_id: dict[int, int] = {}
        for index, item in enumerate(self._items):
            self._index_by_id.setdefault(item.id, index)
        self._regions: dict[int, int | None] = {}

    def of_index(self, index: int) -> int | None:
        """Return the region of an object by its position; None if it has neither box nor mask."""
        if index not in self._regions:
            item, where = self._items[index], f"object {self._items[index].id}"
            box = self._builder.parse_box(list(item.box), where)
            mask = item.mask
            runs = None if mask is None else self._builder.parse_mask(dict(mask), where)
            self._regions[index] = self._builder.add_region(box, runs)
        return self._regions[index]

    def of_id(self, object_id: int) -> int | None:
        """Return the region of an object by its id; None if no object has it."""
        index = self._index_by_id.get(object_id)
        return None if index is None else self.of_index(index)


class _StoredRecords:
    """Records of a split in a temporary file; a dataset source whose keys are file names."""

    def __init__(self, name: str, split: str, file: BinaryIO):
        self.name, self._split, self._file = name, split, file
        self._places: dict[str, tuple[int, int, int]] = {}  # start, bytes of defects, of record
        self._digest = 0

    @property
    def source(self) -> tuple[str, str]:
        return self.name, self._split

    @property
    def keys(self) -> Sequence[str]:
        return list(self._places)

    @property
    def digest(self) -> str:
        """A hash of all records that does not depend on their order."""
        return f"{self._digest:032x}"

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, key: str, result: ReadResult) -> None:
        """Write a record, or the defects of an image that has none."""
        data, defects = b"", list(result.defects)
        if result.record is not None:
            try:
                data = encode(result.record)
            except RecordError as error:
                defects.append(Defect(INCONSISTENT, str(error)))
        header = json.dumps(defects).encode()
        start = self._file.seek(0, 2)
        self._file.write(header + data)
        self._places[key] = (start, len(header), len(data))
        digest = hashlib.blake2b(digest_size=16)
        for part in (key.encode(), header, data):
            digest.update(len(part).to_bytes(8, "little") + part)
        self._digest = (self._digest + int.from_bytes(digest.digest(), "little")) % (1 << 128)

    def read(self, key: str) -> ReadResult:
        """Read the record of an image."""
        start, header_size, data_size = self._places[key]
        self._file.seek(start)
        header, data = self._file.read(header_size), self._file.read(data_size)
        record: Record | None = decode(data) if data else None
        return ReadResult(record, tuple(Defect(*item) for item in json.loads(header)))


def _check_destination(folder: Path, overwrite: bool) -> None:
    """Check that a folder is new, or has an earlier export of this module.

    Raises:
        FolderError: it has something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if (folder / SUMMARY_FILE).exists():
        check_replaceable(folder, FORMAT)
        if not overwrite:
            raise FolderError(f"{folder}: exists already; overwrite it or choose another name")
        return
    for split in (TRAIN, VALIDATION):  # an export that was interrupted
        try:
            job = read_object(folder / "reports" / split / "job.json")
        except JSONError:
            continue
        if "export" in job:
            return
    raise FolderError(f"{folder}: is not an export, so it is not overwritten")


def _write_split(
    out: Path,
    folder: Path,
    split: str,
    records: _StoredRecords,
    images_per_shard: int,
    overwrite: bool,
    summary: ExportSummary,
    on_record: Callable[[], None],
) -> None:
    """Write the shards of a split; remove those of an earlier export if it has no images now."""
    if not records.keys:
        if folder.exists():
            _remove_split(folder, split)
        return
    num_shards = -(-len(records.keys) // images_per_shard)
    reader = SourceReader(lambda root, split: records, out, split, num_shards)
    target = reader.target(out)
    with target.lock():
        job = {**reader.description(), "export": FORMAT, "content": records.digest}
        target.begin(job, overwrite=overwrite)
        for index in range(num_shards):
            write_shard(reader, target, index, on_record)
        report = target.summarize(len(reader.keys))
        target.publish(report)
    summary.num_images += report.counts.get("records", 0)
    for kind, count in report.counts.items():
        summary.counts[f"{split}: {kind}"] += count
    for kind, places in report.defects.items():
        summary.dropped[f"defects: {kind}"] += len(places)


def _remove_split(folder: Path, split: str) -> None:
    target = SplitFolder(folder, folder.parent.name, split, 1)
    with target.lock():
        target.begin({"export": FORMAT}, overwrite=True)

"""Load batches: records are mixed, shuffled, read by worker processes and packed; resumable.

    batches = open_batches(config.data, config.model)
    loaded = next(batches)             # loaded.batch; loaded.names: which records are in it
    state = batches.get_state()        # a few hundred bytes of JSON, at this batch
    batches.set_state(state)           # continue from there

The batch of a step consists of `batch_slices` slices. A slice is a stream of its own: it takes
every n-th record of every mixture entry, in an order that follows from the seed (another one each
epoch), and packs its part of the batch by itself. So a slice depends on the configuration alone:
not on the number of worker processes, which only prepare its samples, and not on the number of
hosts, which only divide the slices among themselves. Host h of n reads the h-th n-th of them, and
all hosts together read the same batches for any n.

A batch slice has a fixed shape. A sample that needs a part that is used up (rows, images, slots of
SAM, slots of the region encoder, boxes, masks) waits for the next batch, the longest waiting first;
meanwhile samples that do not need it are added. A slice is closed when its rows or images are used
up, or when `max_deferred` samples wait. A sample that could never fit is dropped and counted.

Records that give no sample are counted for each mixture entry, with the reason; `dropped_samples`
reads the counts of a state. Above the shares `max_unreadable` and `max_dropped`, loading stops.

The state of a slice is the position behind the last record that it has read, the positions of the
samples that wait (they are read again), and what was counted. `merge_states` joins the states of
all hosts; each takes the slices that it now has. No example is lost or repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import grain
from absl import flags

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import DataConfig
from glamm_jax.data.block_cache import default_cache
from glamm_jax.data.collate import BatchBuilder, ExpandedSample, expand_sample, join_slices
from glamm_jax.data.conversation_sampler import sample_conversations
from glamm_jax.data.encode import Sample, encode_examples
from glamm_jax.data.input_fill import InputFill, add_fills
from glamm_jax.data.packing import Packing
from glamm_jax.data.preprocess import ImageError
from glamm_jax.data.record import RecordError
from glamm_jax.data.record_sources import RecordSource, open_records
from glamm_jax.data.rle import MaskError
from glamm_jax.environment import environment_variables
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import Batch, BatchShape

UNREADABLE_IMAGE = "dropped: the image cannot be read"
UNREADABLE_RECORD = "dropped: the record cannot be read"
UNREADABLE = (UNREADABLE_IMAGE, UNREADABLE_RECORD)
MAX_PROBLEM = 300  # characters of a description of a record
LOCAL_THREADS = 2  # that prepare samples, without worker processes
REMOTE_THREADS = 16  # the same for records in a bucket: most of them wait for an answer
# Consecutive records without a usable sample after which the data is considered unusable.
MAX_UNUSABLE_RECORDS = 1000
# So many records of a mixture entry may be dropped before their share is considered.
MIN_DROPPED = 10
# grain imports jax; a worker must not claim the accelerators of this process with it. Memory of an
# image is kept for the next one: glibc would return it and fetch it again page by page. Large pages
# (hugetlb) save address look-ups.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_LARGE_PRIME = 1_000_003  # sets the shuffles of the mixture's entries apart
_NUM_SEEDS = 1 << 32


class DataError(GLaMMError):
    """The data gives no batches. Says what happened to the records."""


class WorkerError(DataError):
    """A worker process was killed."""


class StateError(GLaMMError):
    """A state does not belong to this loader."""


class LoadedBatch(NamedTuple):
    """A batch of this process.

    Attributes:
        batch: its arrays.
        names: "source id" of every record that this process put into it.
        fill: how much of its quotas is filled.
    """

    batch: Batch
    names: tuple[str, ...]
    fill: InputFill = {}  # noqa: RUF012  # never changed


# What `open_batches` returns; grain's checkpoints can save it as well.
BatchIterator = grain.DatasetIterator[LoadedBatch]


class RecordRequest(NamedTuple):
    """A record of a mixture entry, and how often it was read before."""

    entry: int
    record: int
    epoch: int


class ReadSample(NamedTuple):
    """What a position of a slice's stream holds.

    Attributes:
        position: in the stream.
        source: of the record, for the counts.
        sample: None if nothing of the record can be used.
        notes: what happened.
        entry: index of the mixture entry.
        problem: why the record cannot be read, with its file.
    """

    position: int
    source: str
    sample: Sample | None
    notes: tuple[str, ...] = ()
    entry: int = 0
    problem: str = ""


@dataclass
class EntryCounts:
    """What became of the records of a mixture entry in a slice.

    Attributes:
        read: records that were read.
        dropped: reason -> records that gave no sample.
        examples: reason -> the first such record.
    """

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, example: str) -> None:
        """Count a record that gave no sample."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.examples.setdefault(reason, example)

    @property
    def num_dropped(self) -> int:
        """Records that gave no sample."""
        return sum(self.dropped.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{number} x {reason} (first: {self.examples[reason]})"
            for reason, number in sorted(self.dropped.items(), key=lambda item: -item[1])
        )


class SampleReader:
    """Reads samples in a worker process: record, conversations, image, tokens.

    A record that cannot be read gives no sample and is counted: one bad record ends no training.

    Args:
        sources: records of each mixture entry.
        data: configuration of the data.
        model: configuration of the model.
    """

    def __init__(self, sources: Sequence[RecordSource], data: DataConfig, model: GLaMMConfig):
        self._sources, self._data, self._model = sources, data, model
        self._tokenizer = load_tokenizer(data.tokenizer, model.tokens)

    def __call__(self, position: int, request: RecordRequest) -> ReadSample:
        """Read the sample at a position of the stream."""
        shape, entry = self._data.batch_shape, self._data.mixture[request.entry]
        source, name = entry.dataset, f"record {request.record} of {entry.dataset}"
        try:
            record = self._sources[request.entry][request.record]
            source, name = record.source, f"{record.source} {record.image_id}"
            examples, notes = sample_conversations(
                record,
                entry.tasks,
                entry.conversation,
                self._data.seed,
                request.epoch,
                (shape.mask_height, shape.mask_width),
            )
        except (ImageError, MaskError, RecordError) as error:
            reason = UNREADABLE_IMAGE if isinstance(error, ImageError) else UNREADABLE_RECORD
            return ReadSample(
                position, source, None, (reason,), request.entry, f"{name}: {error}"[:MAX_PROBLEM]
            )
        sample, more_notes = encode_examples(
            examples,
            self._tokenizer,
            self._model,
            shape,
            bare_image=entry.conversation.bare_image,
        )
        return ReadSample(position, source, sample, (*notes, *more_notes), request.entry, name)


def open_batches(
    data: DataConfig,
    model: GLaMMConfig,
    process: int = 0,
    num_processes: int = 1,
    sources: Mapping[str, RecordSource] | None = None,
) -> BatchIterator:
    """Open an endless iterator over this process's part of every step's batch.

    `get_state()["shards"]` has the counts. Close the iterator to end its workers.

    Args:
        data: configuration of the data.
        model: configuration of the model.
        process: index of this process.
        num_processes: that divide the batch slices.
        sources: records of datasets by their name in the mixture, used instead of those that the
            names lead to.

    Raises:
        StateError: the slices cannot be divided among the processes.
        TokenizerError, ConfigError: the tokenizer or a dataset cannot be used; it is empty.
    """
    if data.batch_slices % num_processes or not 0 <= process < num_processes:
        raise StateError(
            f"{data.batch_slices} batch slices cannot be divided among {num_processes} processes "
            f"(this is process {process}); set data.batch_slices to a multiple of every number of "
            "processes that may be used"
        )
    if not flags.FLAGS.is_parsed():  # grain reads a flag, and no flags are parsed here
        flags.FLAGS.mark_as_parsed()
    given = sources or {}
    cache = default_cache(data.cache_dir, data.cache_bytes)
    opened = [
        given[entry.dataset]
        if entry.dataset in given
        else open_records(entry.dataset, entry.split, data.seed, cache)
        for entry in data.mixture
    ]
    sizes = [len(source) for source in opened]
    for entry, size in zip(data.mixture, sizes, strict=True):
        if not size:
            raise ConfigError(
                f"dataset {entry.dataset!r}: split {entry.split!r} has no records; remove it from "
                "data.mixture"
            )
    reader = SampleReader(opened, data, model)
    count = data.batch_slices // num_processes
    is_remote = any(getattr(source, "is_remote", False) for source in opened)
    num_threads = REMOTE_THREADS if is_remote else LOCAL_THREADS
    slices = {
        index: SliceLoader(
            _stream(reader, opened, data, index),
            data,
            model,
            entry_sizes=sizes,
            num_threads=num_threads,
        )
        for index in range(process * count, (process + 1) * count)
    }
    return iter(
        grain.experimental.ThreadPrefetchIterDataset(
            _Batches(slices, data), prefetch_buffer_size=data.prefetch
        )
    )


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all hosts as one, from which any number of hosts continues."""
    states = list(states)
    slices: dict[str, Any] = {}
    for state in states:
        slices |= state["shards"]
    return {**states[0], "shards": slices}


class DroppedSamples(NamedTuple):
    """Records of a dataset that gave no sample, for one reason.

    Attributes:
        dataset: name in the mixture.
        reason: why.
        count: records.
        read: all records of the dataset that were read.
        example: one of the records.
    """

    dataset: str
    reason: str
    count: int
    read: int
    example: str


def dropped_samples(state: Mapping[str, Any]) -> list[DroppedSamples]:
    """Return what was dropped up to a state of the loader, of all slices that the state has."""
    names = [entry[0] for entry in state["mixture"][_NUM_SHARED:]]
    read: Counter[str] = Counter()
    dropped: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for slice_state in state["shards"].values():
        for index, counts in slice_state.get("entries", {}).items():
            dataset = names[int(index)]
            read[dataset] += counts["read"]
            for reason, number in counts["dropped"].items():
                dropped[dataset, reason] += number
                examples.setdefault((dataset, reason), counts["examples"][reason])
    return [
        DroppedSamples(dataset, reason, number, read[dataset], examples[dataset, reason])
        for (dataset, reason), number in dropped.items()
    ]


def _stream(
    reader: SampleReader, sources: Sequence[RecordSource], data: DataConfig, slice_index: int
) -> grain.MapDataset[ReadSample]:
    """What a slice reads at each position, endlessly."""
    entries = []
    for index, source in enumerate(sources):
        seed = (data.seed * _LARGE_PRIME + index) % _NUM_SEEDS
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()
        requests = order.map_with_index(partial(_request, index, len(source)))
        entries.append(requests[slice_index :: data.batch_slices])
    weights = [entry.weight for entry in data.mixture]
    return grain.MapDataset.mix(entries, weights).map_with_index(reader)


def _request(entry: int, num_records: int, index: int, record: Any) -> RecordRequest:
    return RecordRequest(entry, int(record), index // num_records)


@dataclass
class _WaitingSample:
    """A sample that is added to a batch, now or later.

    Attributes:
        position: where it was read.
        expanded: the sample.
        required: shape of a batch that holds it alone.
    """

    position: int
    expanded: ExpandedSample
    required: BatchShape


class SliceLoader:
    """Packs the samples of one stream into batch slices.

    `_position`, `_waiting`, `_counts` and `_entries` are all that it remembers.

    Args:
        stream: the samples by position; it is read by threads or worker processes.
        data: configuration of the data.
        model: configuration of the model.
        reads: the same samples, already being read in order; used instead of opening the stream.
        entry_sizes: records of each mixture entry, if an entry without samples is an error.
        num_threads: that prepare samples if there are no worker processes.
    """

    def __init__(
        self,
        stream: grain.MapDataset[ReadSample] | Sequence[ReadSample],
        data: DataConfig,
        model: GLaMMConfig,
        reads: Iterator[ReadSample] | None = None,
        entry_sizes: Sequence[int] = (),
        num_threads: int = LOCAL_THREADS,
    ):
        self._stream: Any = stream
        self._data, self._model = data, model
        self._packing = Packing(data.share_prefix, data.fill_rows)
        self._open: Any = reads
        self._position = 0  # of what is read next
        self._waiting: list[_WaitingSample] = []
        self._counts: Counter[str] = Counter()
        self._entries: dict[int, EntryCounts] = {}
        self._entry_sizes = entry_sizes
        self._num_threads = num_threads

    def next_batch(self) -> LoadedBatch:
        """The next batch of the slice.

        Raises:
            DataError: nothing of the stream can be used, or too many records are dropped.
            WorkerError: a worker process was killed.
        """
        shape = self._data.batch_shape
        builder = BatchBuilder(self._model, self._packing, shape)
        self._waiting = [
            sample
            for sample in self._waiting
            if builder.add(sample.expanded, sample.required) is not None
        ]
        while not builder.is_full and len(self._waiting) < self._data.max_deferred:
            sample = self._next_sample()
            exceeded = builder.add(sample.expanded, sample.required)
            if exceeded is not None:
                self._counts[f"waited for {exceeded}"] += 1
                self._waiting.append(sample)
        names = tuple(sample.name for sample in builder.samples)
        return LoadedBatch(builder.build(shape), names, builder.fill(shape))

    def _next_sample(self) -> _WaitingSample:
        """The next sample that fits into an empty batch."""
        shape = self._data.batch_shape
        for _ in range(MAX_UNUSABLE_RECORDS):
            read = self._read()
            self._position = read.position + 1
            self._counts.update(f"{read.source}, {note}" for note in read.notes)
            entry = self._entries.setdefault(read.entry, EntryCounts())
            entry.read += 1
            if read.sample is None:
                entry.drop(read.notes[-1] if read.notes else "dropped", read.problem)
                self._check_dropped(read.entry)
                continue
            sample = self._expand(read.position, read.sample)
            exceeded = [
                f.name
                for f in fields(BatchShape)
                if getattr(sample.required, f.name) > getattr(shape, f.name)
            ]
            if not exceeded:
                return sample
            reason = f"dropped: more {', '.join(exceeded)} than a batch has"
            self._counts[f"{read.source}, {reason}"] += 1
            entry.drop(reason, sample.expanded.sample.name)
            self._check_dropped(read.entry)
        raise DataError(
            f"the last {MAX_UNUSABLE_RECORDS} records gave nothing that fits into a batch: "
            + "; ".join(f"{number} x {name}" for name, number in self._counts.most_common())
        )

    def _read(self) -> ReadSample:
        """Return the next sample of the stream."""
        try:
            return next(self._reads())
        except RuntimeError as error:
            if "process was terminated" not in str(error):  # the words of grain
                raise
            reason = str(error).partition(". ")[0]
            raise WorkerError(
                f"a data worker was killed ({reason}); the usual cause is a lack of memory: use "
                "fewer data.workers"
            ) from error

    def _check_dropped(self, index: int) -> None:
        """Check that not too many records of a mixture entry were dropped.

        Raises:
            DataError: too many were.
        """
        counts, data = self._entries[index], self._data
        unreadable = sum(counts.dropped.get(reason, 0) for reason in UNREADABLE)
        exceeded = ""
        for name, number in (("max_unreadable", unreadable), ("max_dropped", counts.num_dropped)):
            bound = getattr(data, name)
            if number > max(MIN_DROPPED, bound * counts.read):
                exceeded = f"more than data.{name} = {bound}"
                break
        else:
            size = self._entry_sizes[index] if self._entry_sizes else None
            is_lost = counts.num_dropped == counts.read and data.max_dropped < 1
            if is_lost and size is not None and counts.read >= size:
                exceeded = "which is all of them"
        if exceeded:
            entry = data.mixture[index]
            raise DataError(
                f"dataset {entry.dataset!r}, split {entry.split!r}: {counts.num_dropped} of "
                f"{counts.read} records gave no sample, {exceeded}: {counts}. Repair the dataset, "
                "remove it from data.mixture, or raise the bound"
            )

    def _expand(self, position: int, sample: Sample) -> _WaitingSample:
        expanded = expand_sample(sample, self._model)
        alone = BatchBuilder(self._model, self._packing, row_limit=self._data.batch_shape)
        alone.add(expanded)
        return _WaitingSample(position, expanded, alone.required_shape)

    def _reads(self) -> Iterator[ReadSample]:
        """The samples in order, prepared ahead by threads or by worker processes."""
        if self._open is not None:
            return self._open
        remaining, workers = self._stream[self._position :], self._data.workers
        if not workers:
            ahead = 4 * self._num_threads
            options = grain.ReadOptions(self._num_threads, prefetch_buffer_size=ahead)
            self._open = iter(remaining.to_iter_dataset(options))
            return self._open
        per_worker = max(1, self._num_threads // LOCAL_THREADS)
        in_order = grain.ReadOptions(per_worker, prefetch_buffer_size=2 * per_worker)
        processes = grain.multiprocessing.MultiprocessingOptions(workers, per_worker_buffer_size=2)
        self._open = iter(remaining.to_iter_dataset(in_order).mp_prefetch(processes))
        with environment_variables(**WORKER_ENVIRONMENT):
            self._open.start_prefetch()
        return self._open

    def state(self) -> dict[str, Any]:
        """All that the following batches depend on."""
        waiting = [sample.position for sample in self._waiting]
        return {
            "position": self._position,
            "waiting": waiting,
            "counts": dict(self._counts),
            "entries": {str(index): asdict(counts) for index, counts in self._entries.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the samples that were waiting are read again."""
        self.close()
        self._position = int(state["position"])
        self._counts = Counter(state["counts"])
        self._entries = {  # not in states of earlier versions
            int(index): EntryCounts(**counts) for index, counts in state.get("entries", {}).items()
        }
        reads = [self._stream[int(position)] for position in state["waiting"]]
        self._waiting = [
            self._expand(read.position, read.sample)
            for read in reads
            if read is not None and read.sample is not None
        ]

    def close(self) -> None:
        """End the workers."""
        if self._open is not None:
            self._open.close()
            self._open = None


class _Batches(grain.IterDataset[LoadedBatch]):
    """The batches of some slices, joined; what `open_batches` prefetches."""

    def __init__(self, slices: dict[int, SliceLoader], data: DataConfig):
        super().__init__()
        self._slices, self._data = slices, data

    def __iter__(self) -> BatchIterator:
        return _JoinedIterator(self._slices, self._data)


class _JoinedIterator(grain.DatasetIterator[LoadedBatch]):
    """Iterates over `_Batches`."""

    def __init__(self, slices: dict[int, SliceLoader], data: DataConfig):
        super().__init__()
        self._slices, self._data = slices, data

    def __next__(self) -> LoadedBatch:
        loaded = {index: loader.next_batch() for index, loader in self._slices.items()}
        batches = {index: slice_batch.batch for index, slice_batch in loaded.items()}
        names = tuple(name for slice_batch in loaded.values() for name in slice_batch.names)
        fill = add_fills(slice_batch.fill for slice_batch in loaded.values())
        return LoadedBatch(join_slices(batches), names, fill)

    def get_state(self) -> dict[str, Any]:
        slices = {str(index): loader.state() for index, loader in self._slices.items()}
        return {"mixture": _fingerprint(self._data), "shards": slices}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            StateError: it is of another configuration, or lacks a slice.
        """
        expected = _fingerprint(self._data)
        if state["mixture"] != expected:
            raise StateError(f"the state is of another mixture: {state['mixture']}, not {expected}")
        missing = [index for index in self._slices if str(index) not in state["shards"]]
        if missing:
            raise StateError(
                f"the state lacks the batch slices {missing}; join the states of all processes "
                "with `merge_states`"
            )
        for index, loader in self._slices.items():
            loader.restore(state["shards"][str(index)])

    def close(self) -> None:
        for loader in self._slices.values():
            loader.close()


def _fingerprint(data: DataConfig) -> list[Any]:
    """What the order of the examples follows from: seed, slices, and every mixture entry."""
    entries = ([x.dataset, x.split, x.weight, *x.tasks] for x in data.mixture)
    return [data.seed, data.batch_slices, *entries]


_NUM_SHARED = 2  # elements of the fingerprint before the entries

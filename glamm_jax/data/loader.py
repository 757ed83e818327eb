"""From records to batches: mixed, shuffled, prepared in worker processes, resumable anywhere.

    batches = open_batches(config.data, config.model)
    batch, names = next(batches)       and which pictures are in it
    state = batches.get_state()        a few hundred bytes of JSON, at this very batch
    batches.set_state(state)           and on from there

The batch of a step is that of `shards` shards, one behind the other. A shard is a stream of its
own: it takes every n-th record of every part of the mixture, in an order that follows from the
seed (each epoch another), and fills its batches alone. So a shard's batches depend on nothing but
the configuration: not on the number of worker processes, which only prepare what the shard reads,
and not on the number of hosts, which only divide the shards among themselves. Host h of n makes the
h-th n-th of them, and all hosts together make the same batches, whatever n.

The state of a shard is the position behind the last record that it has read, the positions of the
few that wait for a batch with room (they are read again), and what was counted. `merged` joins the
states of all hosts; each takes from it the shards that it now has. No example is lost or repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
from absl import flags

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import DataConfig
from glamm_jax.data.batch_filling import Filler, Read
from glamm_jax.data.collate import join, shaped
from glamm_jax.data.conversation_sampler import draw_examples
from glamm_jax.data.encode import Prepared, prepare
from glamm_jax.data.packing import Packing
from glamm_jax.data.preprocess import ImageError
from glamm_jax.data.record import RecordError
from glamm_jax.data.record_sources import RecordSource, open_records
from glamm_jax.data.rle import MaskError
from glamm_jax.environment import environment_variables
from glamm_jax.errors import GLaMMError
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import Batch


class Drawn(NamedTuple):
    """A batch, and what is in it."""

    batch: Batch
    names: tuple[str, ...]  # "source id" of every picture that this process put into it


# What `open_batches` returns: an iterator that grain's checkpoints can save, too.
Batches = grain.DatasetIterator[Drawn]

UNREADABLE = "dropped: the picture cannot be read"
BROKEN = "dropped: the record cannot be read"
# grain imports jax; a worker must not claim the accelerators of this process with it. Memory that a
# picture leaves is kept for the next one: glibc would return it, and fetch it again page by page.
# Large pages (hugetlb) save the processor many look-ups of addresses.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_LARGE_PRIME = 1_000_003  # sets the shuffles of a mixture's parts apart
_SEEDS = 1 << 32


class StateError(GLaMMError):
    """A state that does not belong to this pipeline. Says why."""


class Ticket(NamedTuple):
    """Which record is asked: the part of the mixture, its number there, and how often before."""

    part: int
    record: int
    epoch: int


class Reader:
    """Record to sample, in a worker process: read, ask, decode, resize, tokenise."""

    def __init__(self, sources: Sequence[RecordSource], data: DataConfig, model: GLaMMConfig):
        self._sources, self._data, self._model = sources, data, model
        self._tokenizer = load_tokenizer(data.tokenizer, model.tokens)

    def __call__(self, position: int, ticket: Ticket) -> Read:
        """What cannot be read gives no sample, and is counted: one bad record ends no training."""
        data, part = self._data, self._data.mixture[ticket.part]
        source = part.dataset
        try:
            record = self._sources[ticket.part][ticket.record]
            source, room = (
                record.source,
                (data.batch_shape.mask_height, data.batch_shape.mask_width),
            )
            drawn = draw_examples(
                record, part.tasks, part.conversation, data.seed, ticket.epoch, room
            )
        except ImageError:
            return Read(position, source, Prepared(None, (UNREADABLE,)))
        except (MaskError, RecordError):
            return Read(position, source, Prepared(None, (BROKEN,)))
        sample, notes = prepare(
            drawn.examples,
            self._tokenizer,
            self._model,
            data.batch_shape,
            part.conversation.bare_image,
        )
        return Read(position, source, Prepared(sample, (*drawn.notes, *notes)))


def open_batches(
    data: DataConfig,
    model: GLaMMConfig,
    process: int = 0,
    num_processes: int = 1,
    sources: Mapping[str, RecordSource] | None = None,
) -> Batches:
    """This process's share of every step's batch, for ever; close it to end its workers.

    Indices in a batch count from the start of the whole step's batch. `get_state()["shards"]` says
    what was counted. sources: records of datasets by their name in the mixture, instead of those
    that the names lead to.

    Raises: StateError when the shards cannot be divided, TokenizerError or ConfigError when the
    tokenizer or a dataset cannot be used.
    """
    if data.batch_slices % num_processes or not 0 <= process < num_processes:
        raise StateError(
            f"{data.batch_slices} shards cannot be divided among {num_processes} processes (this is "
            f"number {process}); set data.batch_slices to a multiple of every number that may be used"
        )
    if not flags.FLAGS.is_parsed():  # grain asks for a flag, and we parse none
        flags.FLAGS.mark_as_parsed()
    known = sources or {}
    found = [
        known[part.dataset]
        if part.dataset in known
        else open_records(part.dataset, part.split, data.seed)
        for part in data.mixture
    ]
    reader = Reader(found, data, model)
    own = data.batch_slices // num_processes
    shards = {
        number: _Shard(_reads(reader, found, data, number), data, model)
        for number in range(process * own, (process + 1) * own)
    }
    return iter(
        grain.experimental.ThreadPrefetchIterDataset(
            _Batches(shards, data, model), prefetch_buffer_size=data.prefetch
        )
    )


def merged(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all hosts as one, from which any number of hosts goes on."""
    states = list(states)
    shards: dict[str, Any] = {}
    for state in states:
        shards |= state["shards"]
    return {**states[0], "shards": shards}


def _reads(
    reader: Reader, sources: Sequence[RecordSource], data: DataConfig, shard: int
) -> grain.MapDataset[Read]:
    """What a shard reads at each position, endlessly."""
    parts = []
    for number, source in enumerate(sources):
        seed = (data.seed * _LARGE_PRIME + number) % _SEEDS
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()
        parts.append(
            order.map_with_index(_Tickets(number, len(source)))[shard :: data.batch_slices]
        )
    weights = [part.weight for part in data.mixture]
    return grain.MapDataset.mix(parts, weights).map_with_index(reader)


class _Tickets(NamedTuple):
    """Makes tickets of a part's records in their shuffled order."""

    part: int
    num_records: int

    def __call__(self, index: int, record: Any) -> Ticket:
        return Ticket(self.part, int(record), index // self.num_records)


class _Shard:
    """One stream of samples, and the batches that it fills."""

    def __init__(self, reads: grain.MapDataset[Read], data: DataConfig, model: GLaMMConfig):
        self._reads, self._data, self._model = reads, data, model
        self._packing = Packing(data.share_prefix, data.fill_rows)
        self._stream: grain.DatasetIterator[Read] | None = None
        self._filler = self._new_filler()

    def draw(self) -> Drawn:
        """The next batch of the shard."""
        if self._stream is None:
            self._stream = _open_stream(self._reads[self._filler.position :], self._data.workers)
            self._filler.stream = self._stream
        parts = self._filler.fill()
        batch = shaped(parts, self._model, self._data.batch_shape)
        return Drawn(batch, tuple(sample.name for sample in parts.samples))

    def state(self) -> dict[str, Any]:
        """All that the batches from here on follow from."""
        filler = self._filler
        waiting = [each.position for each in filler.waiting]
        return {"position": filler.position, "waiting": waiting, "counts": dict(filler.counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, reading anew what was waiting."""
        self.close()
        self._filler = self._new_filler()
        self._filler.position = int(state["position"])
        self._filler.counts = Counter(state["counts"])
        reads = [self._reads[int(position)] for position in state["waiting"]]
        self._filler.waiting = [
            self._filler.candidate(read.position, read.prepared.sample)
            for read in reads
            if read is not None and read.prepared.sample is not None
        ]

    def close(self) -> None:
        """End the workers."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _new_filler(self) -> Filler:
        quotas, deferred = self._data.batch_shape, self._data.max_deferred
        return Filler(iter(()), self._model, quotas, self._packing, deferred)


def _open_stream(reads: grain.MapDataset[Read], workers: int) -> grain.DatasetIterator[Read]:
    """Reads in their order, prepared by threads or by worker processes."""
    if not workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        return iter(reads.to_iter_dataset(options))
    one_by_one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    processes = grain.multiprocessing.MultiprocessingOptions(workers, per_worker_buffer_size=2)
    stream = iter(reads.to_iter_dataset(one_by_one).mp_prefetch(processes))
    with environment_variables(**WORKER_ENVIRONMENT):
        stream.start_prefetch()
    return stream


class _Batches(grain.IterDataset[Drawn]):
    """The batches of some shards, joined; what `open_batches` prefetches."""

    def __init__(self, shards: dict[int, _Shard], data: DataConfig, model: GLaMMConfig):
        super().__init__()
        self._shards, self._data, self._model = shards, data, model

    def __iter__(self) -> Batches:
        return _BatchIterator(self._shards, self._data, self._model)


class _BatchIterator(grain.DatasetIterator[Drawn]):
    """Iterates over `_Batches`."""

    def __init__(self, shards: dict[int, _Shard], data: DataConfig, model: GLaMMConfig):
        super().__init__()
        self._shards, self._data, self._model = shards, data, model

    def __next__(self) -> Drawn:
        drawn = {number: shard.draw() for number, shard in self._shards.items()}
        batches = {number: each.batch for number, each in drawn.items()}
        names = tuple(name for each in drawn.values() for name in each.names)
        return Drawn(join(batches, self._data.batch_shape, self._model.clip.num_patches), names)

    def get_state(self) -> dict[str, Any]:
        shards = {str(number): shard.state() for number, shard in self._shards.items()}
        return {"mixture": _fingerprint(self._data), "shards": shards}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises: StateError when it is of another configuration, or lacks a shard."""
        ours = _fingerprint(self._data)
        if state["mixture"] != ours:
            raise StateError(f"the state is of another mixture: {state['mixture']}, not {ours}")
        missing = [number for number in self._shards if str(number) not in state["shards"]]
        if missing:
            raise StateError(
                f"the state has no shards {missing}; join the states of all processes with `merged`"
            )
        for number, shard in self._shards.items():
            shard.restore(state["shards"][str(number)])

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()


def _fingerprint(data: DataConfig) -> list[Any]:
    """What the order of the examples follows from: seed, shards, and each part of the mixture."""
    parts = ([part.dataset, part.split, part.weight, *part.tasks] for part in data.mixture)
    return [data.seed, data.batch_slices, *parts]

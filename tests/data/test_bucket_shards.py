"""Record shards in a bucket: the records are those of the files, the cache has a bounded size."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from glamm_jax.cli.convert import main as convert
from glamm_jax.data import block_cache, loader
from glamm_jax.data.block_cache import BlockCache
from glamm_jax.data.bucket_shards import BucketShard, DamagedShardError
from glamm_jax.data.dataset_mixture import mixture_of
from glamm_jax.data.record_shards import RecordShards, ShardError
from glamm_jax.data.record_sources import open_records
from glamm_jax.errors import ConfigError
from glamm_jax.storage import StorageError, append, delete, object_info, put
from tests.bucket_server import SlowServer
from tests.small_experiment import MIXTURE, get_config

OPTIONS = (
    *("group_size:1", "group_size:7", "group_size:1,uncompressed", "group_size:3,brotli"),
    *("group_size:1,pad_to_block_boundary:true", "group_size:2,snappy"),
)
MIB = 1 << 20


def write_shard(path: Path, options: str = "group_size:1", count: int = 40) -> list[bytes]:
    """Write records of very different sizes, of which some cross several blocks."""
    draw = random.Random(options)
    sizes = [draw.choice([0, 1, 5, 31, 100, 70_000, 200_000]) for _ in range(count)]
    records = [draw.randbytes(size) + b"z" * draw.randint(0, 3000) for size in sizes]
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return records


def upload(source: Path, target: epath.Path) -> None:
    for file in source.rglob("*"):
        if file.is_file():
            put(target / str(file.relative_to(source)), file.read_bytes())


def open_shard(path: epath.Path, cache: BlockCache) -> BucketShard:
    info = object_info(path)
    assert info is not None
    return BucketShard(path, info, cache)


def size_of_blocks(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.block"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record shards that the program has written."""
    out = tmp_path_factory.mktemp("shards")
    status = convert(["miniworld", "--out", str(out), "--scenes", "12", "--size", "48"])
    assert status == 0
    return out


@pytest.mark.parametrize("options", OPTIONS)
def test_every_record_is_that_of_the_file(bucket: epath.Path, tmp_path: Path, options: str) -> None:
    records = write_shard(tmp_path / "a", options)
    put(bucket / "a", (tmp_path / "a").read_bytes())
    shard = open_shard(bucket / "a", BlockCache(tmp_path / "cache", 64 * MIB))
    order = random.Random(0).sample(range(len(records)), len(records))
    assert [shard.read(i) for i in order] == [records[i] for i in order]
    with pytest.raises(DamagedShardError, match="has no record 40"):
        shard.read(40)


def test_what_was_read_once_is_read_from_the_cache(
    bucket: epath.Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = write_shard(tmp_path / "a")
    put(bucket / "a", (tmp_path / "a").read_bytes())
    cache = BlockCache(tmp_path / "cache", 64 * MIB)
    shard = open_shard(bucket / "a", cache)
    assert [shard.read(i) for i in range(40)] == records
    again = pickle.loads(pickle.dumps(open_shard(bucket / "a", cache)))
    monkeypatch.delattr(block_cache, "read_range")
    assert [again.read(i) for i in range(40)] == records


def test_the_cache_never_exceeds_its_bound(bucket: epath.Path, tmp_path: Path) -> None:
    records = write_shard(tmp_path / "a", count=60)
    size = (tmp_path / "a").stat().st_size
    put(bucket / "a", (tmp_path / "a").read_bytes())
    cache = BlockCache(tmp_path / "cache", size // 3, block_bytes=1 << 16)
    shard = open_shard(bucket / "a", cache)
    for i in random.Random(0).choices(range(60), k=200):
        assert shard.read(i) == records[i]
        assert size_of_blocks(cache.folder) <= cache.max_bytes
    assert size_of_blocks(cache.folder) > cache.max_bytes / 2


def test_a_damaged_block_of_the_cache_is_read_again(bucket: epath.Path, tmp_path: Path) -> None:
    records = write_shard(tmp_path / "a")
    put(bucket / "a", (tmp_path / "a").read_bytes())
    cache = BlockCache(tmp_path / "cache", 64 * MIB)
    assert open_shard(bucket / "a", cache).read(3) == records[3]
    for number, file in enumerate(sorted(cache.folder.rglob("*.block"))):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content if number % 2 else content[:-7])
    assert [open_shard(bucket / "a", cache).read(i) for i in range(40)] == records


def test_a_damaged_object_is_named(bucket: epath.Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "a", "group_size:1,uncompressed")
    content = bytearray((tmp_path / "a").read_bytes())
    content[len(content) // 2 + 1000] ^= 1  # a block begins in the middle; its header is not read
    put(bucket / "a", bytes(content))
    shard = open_shard(bucket / "a", BlockCache(tmp_path / "cache", 64 * MIB))
    damaged = []
    for i in range(40):
        try:
            shard.read(i)
        except DamagedShardError as error:
            damaged.append(str(error))
    assert len(damaged) == 1
    assert "is damaged" in damaged[0]
    put(bucket / "b", b"no file of records" * 10)
    with pytest.raises(DamagedShardError, match="no ArrayRecord file"):
        open_shard(bucket / "b", BlockCache(tmp_path / "cache", 64 * MIB)).read(0)


def test_an_object_that_was_truncated_meanwhile_is_an_error(
    bucket: epath.Path, tmp_path: Path
) -> None:
    write_shard(tmp_path / "a")
    put(bucket / "a", (tmp_path / "a").read_bytes())
    shard = open_shard(bucket / "a", BlockCache(tmp_path / "cache", 64 * MIB))
    put(bucket / "a", b"x" * 100)
    with pytest.raises(StorageError, match="replaced or truncated meanwhile"):
        shard.read(0)


def read_all(path: str, cache: BlockCache, seed: int, digests: list[bytes]) -> int:
    """Read records in an order of its own; called in another process. Returns the wrong ones."""
    shard = open_shard(epath.Path(path), cache)
    order = random.Random(seed).choices(range(len(digests)), k=100)
    return sum(shard.read(i) != digests[i] for i in order)


@pytest.mark.slow
def test_several_processes_share_the_cache(bucket: epath.Path, tmp_path: Path) -> None:
    records = write_shard(tmp_path / "a", count=60)
    put(bucket / "a", (tmp_path / "a").read_bytes())
    cache = BlockCache(tmp_path / "cache", 3 * MIB)  # blocks are removed all the time
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        jobs = [(os.fspath(bucket / "a"), cache, seed, records) for seed in range(8)]
        assert pool.starmap(read_all, jobs) == [0] * 8
    assert size_of_blocks(cache.folder) <= cache.max_bytes


def test_a_cache_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or another data"):
        BlockCache(tmp_path / "cache", 1 << 60).check_space()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        BlockCache(tmp_path / "file" / "cache", MIB).check_space()


def test_the_program_trains_on_shards_of_a_bucket_by_their_folder(
    bucket: epath.Path, shards: Path, tmp_path: Path
) -> None:
    upload(shards, bucket / "shards")
    [entry, *_] = mixture_of([f"{bucket}/shards"], MIXTURE)
    folder = Path(entry.dataset.replace(str(bucket / "shards"), str(shards)))
    cache = BlockCache(tmp_path / "cache", 64 * MIB)
    for split in (entry.split, f"{entry.split}[25%:75%]"):
        local = RecordShards(folder, split)
        remote = open_records(entry.dataset, split, cache=cache)
        assert len(remote) == len(local) > 0
        assert [remote[i] for i in range(len(remote))] == [*local]
    missing = next(epath.Path(entry.dataset).glob(f"*-{entry.split}.array_record-*"))
    delete(missing)
    with pytest.raises(ShardError, match="lacks 1 files"):
        RecordShards(entry.dataset, entry.split, cache)
    append(missing, b"x")
    with pytest.raises(ShardError, match="run the conversion again"):
        list(RecordShards(entry.dataset, entry.split, cache))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_waits_for_less_than_5_percent_of_a_second_with_answers_after_50_ms(
    bucket: epath.Path,
    bucket_server: str,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    upload(shards, bucket / "shards")
    experiment, steps = get_config(), 15
    mixture = mixture_of([f"{bucket}/shards"], MIXTURE)
    # A record of these small images takes one request or two, as one of photographs does.
    cache = BlockCache(tmp_path / "cache", 1 << 14, block_bytes=1 << 12)
    monkeypatch.setattr(loader, "default_cache", lambda *_: cache)
    server = SlowServer(bucket_server, 0.05)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    shape = replace(
        experiment.data.batch_shape,
        rows=8,
        images=8,
        grounding_images=8,
        masks=64,
        region_images=4,
        regions=16,
    )
    data = replace(experiment.data, mixture=mixture, batch_shape=shape, workers=workers, prefetch=2)
    waited = 0.0
    with closing(loader.open_batches(data, experiment.model)) as batches:
        next(batches)
        num_requests = server.num_requests
        for _ in range(steps):
            time.sleep(1)  # the step
            started = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - started
        num_requests = server.num_requests - num_requests
    server.close()
    print(f"{workers} workers: waited {waited / steps:.2%}, {num_requests / steps:.1f} requests")
    assert num_requests > 4 * steps  # most records were not in the cache
    assert waited < 0.05 * steps

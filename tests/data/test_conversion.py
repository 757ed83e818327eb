"""A source gives the same shards in any order and after any interruption, without losses."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from glamm_jax.data import conversion, split_folder
from glamm_jax.data.conversion import ShardStats, SourceReader, check_shard, write_shard
from glamm_jax.data.record import Record, Region
from glamm_jax.data.record_shards import RecordShards, ShardError
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.split_folder import ConversionError, SplitFolder, SplitReport, dataset_name
from glamm_jax.errors import FolderError
from tests.data.records import jpeg, plain, plain_record

ROOT = Path("anywhere")
INFO = "dataset_info.json"
LENGTHS = (10, 6, 3, 1)  # of the four shards, from the hashes of p0 to p19


def write(
    make_source: Any, out: Path, num_shards: int = 4, split: str = "train", **begin: Any
) -> SplitReport:
    """Convert in this process."""
    reader = SourceReader(make_source, ROOT, split, num_shards)
    target = reader.target(out)
    target.begin(reader.description(), **begin)
    for index in range(num_shards):
        write_shard(reader, target, index)
    report = target.summarize(len(reader.keys))
    target.publish(report)
    return report


def folder_of(out: Path) -> Path:
    return out / "glamm_plain" / "1.0.0"


def shard_of(out: Path, index: int, split: str = "train") -> Path:
    return SplitFolder(folder_of(out), "glamm_plain", split, 4).shard_path(index)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the plain source in four shards."""
    out = tmp_path_factory.mktemp("undisturbed")
    write(plain(), out)
    return files(out)


# ---------------------------------------------------------------- shards


def test_shards_hold_every_record_once(tmp_path: Path) -> None:
    report = write(plain(20), tmp_path)
    shards = RecordShards(folder_of(tmp_path), "train")
    assert sorted(shards, key=lambda x: x.image_id) == sorted(
        (plain_record(f"p{i}") for i in range(20)), key=lambda x: x.image_id
    )
    assert report.shard_lengths == LENGTHS
    assert report.counts == {
        "records": 20,
        "regions": 20,
        "boxes": 20,
        "caption": 20,
        "region": 20,
        "vqa": 20,
    }


def test_shards_do_not_depend_on_the_order_of_the_source(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    write(plain(reverse=True), tmp_path)
    assert files(tmp_path) == undisturbed


def test_a_picture_keeps_its_shard_when_others_come_and_go(tmp_path: Path) -> None:
    write(plain(20), tmp_path / "few")
    write(plain(30), tmp_path / "many")
    for i in range(4):
        few = RecordShards(folder_of(tmp_path / "few"), f"train[{i}shard]")
        many = RecordShards(folder_of(tmp_path / "many"), f"train[{i}shard]")
        names = [record.image_id for record in many]
        assert [name for name in names if int(name[1:]) < 20] == [x.image_id for x in few]


def test_tfds_opens_them_by_name_and_by_folder(tmp_path: Path) -> None:
    write(plain(20), tmp_path)
    image_ids = [record.image_id for record in RecordShards(folder_of(tmp_path), "train")]
    by_name = tfds.data_source("glamm_plain", split="train", data_dir=tmp_path)
    builder = tfds.builder_from_directory(folder_of(tmp_path))
    assert builder.info.splits["train"].num_examples == 20
    for source in (by_name, builder.as_data_source("train")):
        assert [row["image_id"].decode() for row in source] == image_ids
        assert source[0]["image"].shape == (6, 8, 3)


def test_slices_shards_and_single_records_can_be_asked_for(tmp_path: Path) -> None:
    write(plain(20), tmp_path)
    shards = RecordShards(folder_of(tmp_path), "train")
    names = [record.image_id for record in shards]
    assert [x.image_id for x in shards[2:5]] == names[2:5]
    assert shards[-1].image_id == names[-1]
    assert [x.image_id for x in RecordShards(folder_of(tmp_path), "train[:50%]")] == names[:10]
    assert pickle.loads(pickle.dumps(shards))[3] == shards[3]
    with pytest.raises(IndexError, match="record 20 of 20"):
        shards[20]


def test_shards_without_records_do_no_harm(tmp_path: Path) -> None:
    report = write(plain(2), tmp_path)
    assert report.shard_lengths == (1, 1, 0, 0)
    assert len(RecordShards(folder_of(tmp_path), "train")) == 2
    assert len(tfds.data_source("glamm_plain", split="train", data_dir=tmp_path)) == 2


def test_two_splits_share_a_folder_and_leave_each_other_alone(tmp_path: Path) -> None:
    write(plain(8), tmp_path, split="train")
    before = files(tmp_path)
    write(plain(5), tmp_path, split="val")
    write(plain(6), tmp_path, split="val", overwrite=True)
    folder = folder_of(tmp_path)
    assert len(RecordShards(folder, "train")) == 8
    assert [x.split for x in RecordShards(folder, "val")] == ["val"] * 6
    with pytest.raises(ShardError, match="no split 'test'; available: train, val"):
        RecordShards(folder, "test")
    after = files(tmp_path)
    info = f"glamm_plain/1.0.0/{INFO}"
    assert {k: v for k, v in after.items() if "val" not in k and k != info} == {
        k: v for k, v in before.items() if k != info
    }


def test_names_are_what_tfds_takes_and_stay_apart() -> None:
    names = ["refcoco", "refcoco+", "GranD_f/Flickr 30k"]
    assert [dataset_name(name) for name in names] == [
        "glamm_refcoco",
        "glamm_refcoco_plus",
        "glamm_grand_f_flickr_30k",
    ]


# ---------------------------------------------------------------- defects of a source


def _changed_record(**changes: Any) -> Record:
    return replace(plain_record("p3"), **changes)


@pytest.mark.parametrize(
    ("replacement", "kind", "where"),
    [
        (_changed_record(image=jpeg()[:-10]), "unreadable image", "the file ends too early"),
        (_changed_record(image=b"no picture"), "unreadable image", "plain p3"),
        (_changed_record(height=7), "size mismatch", "7 x 8 in its record, is 6 x 8"),
        (
            _changed_record(regions=(Region(),)),
            "inconsistent record",
            "region 0 has neither box nor mask",
        ),
        (_changed_record(image_id="\ud800"), "inconsistent record", "surrogates"),
        (OSError("gone"), "reader failed", "p3: OSError('gone')"),
    ],
)
def test_a_bad_picture_is_counted_and_named_and_costs_no_other(
    replacement: Any, kind: str, where: str, tmp_path: Path
) -> None:
    report = write(plain(20, p3=replacement), tmp_path)
    (place,) = report.defects[kind]
    assert where in place
    assert sum(report.shard_lengths) == 19
    assert {x.image_id for x in RecordShards(folder_of(tmp_path), "train")} == {
        f"p{i}" for i in range(20) if i != 3
    }
    named = json.loads((folder_of(tmp_path) / "defects-train.json").read_text())
    assert named["counts"][kind] == 1
    assert named["defects"][kind] == [place]


def test_defects_of_a_record_that_is_kept_are_named_too(tmp_path: Path) -> None:
    report = write(plain(20, p3=_changed_record()), tmp_path)
    assert report.defects == {"replaced": ["p3"]}
    assert sum(report.shard_lengths) == 20


def test_checking_finds_what_writing_finds(tmp_path: Path) -> None:
    make_source = plain(20, p3=_changed_record(height=7), p4=OSError())
    report = write(make_source, tmp_path, num_shards=1)
    stats = check_shard(SourceReader(make_source, ROOT, "train", 1), 0)
    assert stats.counts == report.counts
    assert stats.num_keys == 20
    assert sorted(defect.kind for defect in stats.defects) == sorted(report.defects)


@pytest.mark.parametrize(
    ("keys", "message"), [([], "no images in split 'train'"), (["a", "b", "a"], "lists a twice")]
)
def test_an_empty_source_and_one_with_doubles_are_refused(keys: list[str], message: str) -> None:
    source = plain(1)(ROOT, "train")
    source.keys = keys
    with pytest.raises(SourceError, match=message):
        SourceReader(lambda root, split: source, ROOT, "train")


def test_a_reading_is_pickled_as_the_way_to_open_it() -> None:
    reader = SourceReader(_plain_source, ROOT, "train", 3)
    again = pickle.loads(pickle.dumps(reader))
    assert list(again.records(1, ShardStats())) == list(reader.records(1, ShardStats()))


def _plain_source(root: Path, split: str) -> Any:
    return plain(6)(root, split)


# ---------------------------------------------------------------- interruptions and damage


def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ArrayRecord write to /dev/full."""
    make_writer = conversion.ArrayRecordWriter

    def full(path: str, options: str) -> Any:
        os.symlink("/dev/full", path)
        return make_writer(path, options)

    monkeypatch.setattr(conversion, "ArrayRecordWriter", full)


def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk full when small files are synchronised."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(split_folder.os, "fsync", full)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("break_disk", [_full_disk, _no_sync])
def test_a_full_disk_is_said_and_leaves_nothing_that_looks_finished(
    break_disk: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
) -> None:
    with monkeypatch.context() as patch:
        break_disk(patch)
        with pytest.raises(ConversionError, match=r"No space left on device.*Free disk space"):
            write(plain(), tmp_path)
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert not list(tmp_path.rglob("*.array_record-*"))
    with pytest.raises(ShardError, match=f"no {INFO}"):
        RecordShards(folder_of(tmp_path), "train")
    write(plain(), tmp_path)
    assert files(tmp_path) == undisturbed


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "glamm_plain").write_text("a file")
    with pytest.raises(ConversionError, match=r"Not a directory.*change the permissions"):
        write(plain(), tmp_path)


def test_unfinished_shards_are_not_published(tmp_path: Path) -> None:
    reader = SourceReader(plain(), ROOT, "train", 4)
    target = reader.target(tmp_path)
    target.begin(reader.description())
    write_shard(reader, target, 0)
    with pytest.raises(ConversionError, match="1 of 4 shards are finished, with 10 of 20 keys"):
        target.summarize(20)
    assert not (folder_of(tmp_path) / INFO).exists()


def test_a_kill_between_report_and_rename_costs_that_shard(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    write(plain(), tmp_path)
    shard = shard_of(tmp_path, 2)
    shard.rename(f"{shard}.tmp-0123")
    write(plain(), tmp_path)
    assert files(tmp_path) == undisturbed


def test_an_array_record_cut_in_the_middle_is_named_and_written_anew(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    write(plain(), tmp_path)
    shard = shard_of(tmp_path, 1)
    cut(shard)
    untouched = shard_of(tmp_path, 0).stat().st_mtime_ns
    shards = RecordShards(folder_of(tmp_path), "train")
    first = LENGTHS[0]
    assert shards[first - 1].source == "plain"
    with pytest.raises(ShardError, match=rf"{shard.name}: record {first} of train.*again"):
        shards[first]
    write(plain(), tmp_path)
    assert files(tmp_path) == undisturbed
    assert shard_of(tmp_path, 0).stat().st_mtime_ns == untouched


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    write(plain(), tmp_path)
    shard_of(tmp_path, 0).unlink()
    with pytest.raises(ShardError, match=r"record 0 of train.*conversion again"):
        RecordShards(folder_of(tmp_path), "train")[0]


def test_a_turned_bit_is_noticed(tmp_path: Path) -> None:
    write(plain(1), tmp_path, num_shards=1)
    shard = SplitFolder(folder_of(tmp_path), "glamm_plain", "train", 1).shard_path(0)
    data = bytearray(shard.read_bytes())
    data[300] ^= 1  # after the headers of the file and of its first chunk
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=f"{shard.name}: record 0 of train"):
        RecordShards(folder_of(tmp_path), "train")[0]


def test_what_reads_back_otherwise_than_it_was_written_stops_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records = conversion._write_records

    def forgetful(path: Path, records: Any) -> list[bytes]:
        return [*write_records(path, records), b"one more"]

    monkeypatch.setattr(conversion, "_write_records", forgetful)
    with pytest.raises(ConversionError, match="10 records read, 11 written"):
        write(plain(), tmp_path)
    assert not list(tmp_path.rglob("*.array_record-*"))


def test_a_split_is_converted_by_one_process_and_two_splits_by_two(tmp_path: Path) -> None:
    reader = SourceReader(plain(), ROOT, "train", 4)
    with reader.target(tmp_path).lock():
        with pytest.raises(FolderError, match=r"split 'train': is being written by process \d+"):
            reader.target(tmp_path).lock()
        SourceReader(plain(), ROOT, "val", 4).target(tmp_path).lock().close()
    reader.target(tmp_path).lock().close()
    assert not files(tmp_path)


def test_something_else_is_not_mixed_in(tmp_path: Path) -> None:
    write(plain(20), tmp_path)
    with pytest.raises(ConversionError, match=r"num_keys 20, now 21.*--overwrite"):
        write(plain(21), tmp_path)
    with pytest.raises(ConversionError, match="num_shards 4, now 3"):
        write(plain(20), tmp_path, num_shards=3)
    write(plain(21), tmp_path, num_shards=3, overwrite=True)
    assert len(RecordShards(folder_of(tmp_path), "train")) == 21
    assert len(list(tmp_path.rglob("*.array_record-*"))) == 3


def test_a_split_that_tfds_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="split 'a/b'"):
        write(plain(), tmp_path, split="a/b")

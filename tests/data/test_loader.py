"""Records become batches of one shape: mixed, resumable, the same on any number of hosts."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import pytest

from glamm_jax.config.experiment import (
    MASK_TASKS,
    ConversationConfig,
    ConversationTask,
    DataConfig,
    MixtureEntry,
)
from glamm_jax.data import loader
from glamm_jax.data.loader import (
    UNREADABLE_IMAGE,
    UNREADABLE_RECORD,
    BatchIterator,
    DataError,
    StateError,
    WorkerError,
    dropped_samples,
    merge_states,
    open_batches,
)
from glamm_jax.data.record import Record
from glamm_jax.data.record_shards import ShardError
from glamm_jax.errors import ConfigError
from glamm_jax.miniworld import EASY, render_scene, scene_record
from glamm_jax.text.tokenizer import TokenizerError, load_tokenizer
from glamm_jax.types import Batch, BatchShape
from tests.small_experiment import TOKENIZER, get_config

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks

MODEL = get_config().model
SIDE = 32
NUM_RECORDS = 12
ROOM = BatchShape(
    rows=6,
    tokens=240,
    targets=160,
    images=6,
    region_images=2,
    regions=8,
    grounding_images=2,
    masks=8,
    mask_height=SIDE,
    mask_width=SIDE,
)
ALONE = ConversationConfig(max_turns=1, max_regions=1)
DATA = DataConfig(
    mixture=(
        MixtureEntry("world", ("referring",), weight=1.2, conversation=ALONE),
        MixtureEntry("world", ("region",), conversation=ALONE),
        MixtureEntry("world", ("caption",)),
    ),
    tokenizer=str(TOKENIZER),
    batch_shape=ROOM,
    max_deferred=4,
)
LABELLED = ("caption", "region", "referring")


class World:
    """A few scenes in memory; their texts say which, by which examples are known again."""

    def __len__(self) -> int:
        return NUM_RECORDS

    def __getitem__(self, index: int) -> Record:
        made = scene_record(render_scene(0, index, SIDE, EASY))
        said = tuple(
            replace(each, text=f"{each.task} {index}") if each.task in LABELLED else each
            for each in made.annotations
        )
        return replace(made, annotations=said, image_id=str(index))


SOURCES = {"world": World()}


@contextmanager
def opened(data: DataConfig, *process: int, **sources: Any) -> Iterator[BatchIterator]:
    with closing(open_batches(data, MODEL, *process, sources=sources or SOURCES)) as batches:
        yield batches


def take(batches: BatchIterator, number: int) -> list[Batch]:
    return [drawn.batch for drawn in islice(batches, number)]


def assert_same(one: Batch, other: Batch) -> None:
    for name, left, right in zip(Batch._fields, one, other, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


def concatenated(batches: list[Batch]) -> Batch:
    parts = zip(*batches, strict=True)
    return Batch(*(part[0] if part[0] is None else np.concatenate(part) for part in parts))


def seen(batches: list[Batch]) -> Counter[str]:
    """How often each task and record is spoken of, by the words of its rows."""
    tokenizer = load_tokenizer(TOKENIZER)
    found: Counter[str] = Counter()
    for batch in batches:
        for ids in batch.token_ids:
            text = tokenizer.decode(ids[ids >= 0])
            task = next((task for task in LABELLED if f"{task} " in text), None)
            if task:
                number = text.split(f"{task} ")[1].split()[0].strip("?,.<")
                found[f"{task} {number}"] += 1
    return found


def test_trap_43_batches_have_one_shape_and_mix_all_tasks_within_their_quotas() -> None:
    with opened(DATA) as batches:
        made = take(batches, 6)
        counts = batches.get_state()["shards"]["0"]["counts"]
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), batch) for batch in made]
    assert all(each == shapes[0] for each in shapes)
    for batch in made:
        assert batch.grounding_images.shape[0] == 2 < batch.images.shape[0] == 6
        masked = np.unique(batch.mask_rows[batch.mask_valid])
        regions = (batch.region_source >= 0).any(1)
        assert batch.token_valid.any(1).all()
        assert len(masked) == 2
        assert 0 < regions.sum() <= 2
        assert not regions[masked].any()
        emitted = batch.token_ids[batch.mask_rows, batch.mask_positions + 1]
        assert (emitted[batch.mask_valid] == MODEL.tokens.seg).all()
        np.testing.assert_array_equal(batch.mask_has_truth, batch.mask_valid)
    # More than a third of the mixture wants SAM, a third of a batch has it: some wait.
    assert counts["waited for grounding_images"] > 0


def test_every_record_comes_once_an_epoch_and_none_is_lost_while_it_waits() -> None:
    with opened(DATA) as batches:
        made = take(batches, 20)
        state = batches.get_state()["shards"]["0"]
    rows = sum(int(batch.token_valid.any(1).sum()) for batch in made)
    assert rows + len(state["waiting"]) == state["position"]
    found = seen(made)
    assert sum(found.values()) == rows
    for task, share in (("referring", 1.2), ("region", 1), ("caption", 1)):
        times = [found[f"{task} {i}"] for i in range(NUM_RECORDS)]
        expected = state["position"] * share / 3.2 / NUM_RECORDS
        assert max(times) <= expected + 1
        assert min(times) >= expected - 1 - len(state["waiting"])


def test_another_seed_is_another_order_and_the_same_seed_the_same() -> None:
    with opened(DATA) as one, opened(DATA) as two, opened(replace(DATA, seed=1)) as other:
        first, again, different = next(one), next(two), next(other)
    assert_same(first.batch, again.batch)
    assert not np.array_equal(first.batch.token_ids, different.batch.token_ids)
    assert first.names == again.names != different.names
    assert all(name.startswith("miniworld ") for name in first.names)
    assert len(first.names) == ROOM.images


def test_a_restored_state_goes_on_at_the_very_example() -> None:
    with opened(DATA) as batches:
        take(batches, 3)
        text = json.dumps(batches.get_state())
        rest = take(batches, 4)
        batches.set_state(json.loads(text))  # back, in the same iterator
        assert_same(next(batches).batch, rest[0])
    assert len(text) < 2000
    assert json.loads(text)["shards"]["0"]["waiting"]
    with opened(DATA) as batches:
        batches.set_state(json.loads(text))
        for expected, loaded in zip(rest, batches, strict=False):
            assert_same(loaded.batch, expected)


def test_any_number_of_hosts_makes_the_same_batches_and_takes_over_from_any_other() -> None:
    data = replace(DATA, batch_slices=4)
    with opened(data) as batches:
        whole = take(batches, 4)
    with opened(data, 0, 2) as first, opened(data, 1, 2) as second:
        pairs = list(zip(take(first, 2), take(second, 2), strict=True))
        states = [json.loads(json.dumps(each.get_state())) for each in (first, second)]
    for expected, pair in zip(whole, pairs, strict=False):
        assert_same(concatenated([*pair]), expected)
    state = merge_states(states)
    parts = []
    for process in range(4):
        with opened(data, process, 4) as batches:
            batches.set_state(state)
            parts.append(take(batches, 2))
    for step in range(2):
        assert_same(concatenated([part[step] for part in parts]), whole[2 + step])


def test_indices_of_joined_slices_count_from_the_start_of_their_slice() -> None:
    data = replace(DATA, batch_slices=2)
    with opened(data) as joined, opened(data, 0, 2) as first, opened(data, 1, 2) as second:
        batch, *parts = (next(each).batch for each in (joined, first, second))
    assert batch.num_slices == 2
    assert batch.slices.tolist() == [0, 1]
    for name, whole in batch._asdict().items():
        if whole is not None:
            own = [getattr(part, name) for part in parts]
            np.testing.assert_array_equal(whole, np.concatenate(own), err_msg=name)
    for part in parts:
        assert part.image_source.max() < ROOM.images * MODEL.clip.num_patches
        assert part.mask_rows.max() < ROOM.rows
        assert part.mask_image.max() < ROOM.grounding_images
        emitted = part.token_ids[part.mask_rows, part.mask_positions + 1][part.mask_valid]
        assert (emitted == MODEL.tokens.seg).all()


class Witness(World):
    """Says in its captions what the process that reads it is like."""

    def __getitem__(self, index: int) -> Record:
        made = super().__getitem__(index)
        bridge = sys.modules.get("jax._src.xla_bridge")
        backends = bridge.backends_are_initialized() if bridge else False
        platforms = os.environ.get("JAX_PLATFORMS")
        report = f"process {os.getpid()} backends {backends} platforms {platforms}"
        said = (each for each in made.annotations if each.task == "caption")
        return replace(made, annotations=tuple(replace(each, text=report) for each in said))


def test_workers_make_the_same_batches_and_never_initialise_a_jax_backend() -> None:
    data = replace(DATA, workers=2)
    with opened(DATA) as batches:
        expected = take(batches, 5)
        state = batches.get_state()
        later = take(batches, 2)
    with opened(data) as batches:
        for one in expected:
            assert_same(next(batches).batch, one)
        batches.set_state(state)  # of threads, restored in worker processes
        for one in later:
            assert_same(next(batches).batch, one)
    watched = replace(data, mixture=(MixtureEntry("world", ("caption",)),))
    with opened(watched, world=Witness()) as batches:
        batch = next(batches).batch
    tokenizer = load_tokenizer(TOKENIZER)
    learned = zip(batch.target_ids, batch.target_valid, strict=True)
    words = [tokenizer.decode(row[valid]).split() for row, valid in learned]
    assert len({each[1] for each in words}) == 2
    assert str(os.getpid()) not in {each[1] for each in words}
    assert {tuple(each[2:]) for each in words} == {("backends", "False", "platforms", "cpu</s>")}


def test_several_tasks_of_a_part_are_conversations_about_one_picture() -> None:
    tasks: tuple[ConversationTask, ...] = ("gcg", "region", "caption")
    many = {"grounding_images": 6, "region_images": 6, "regions": 60, "masks": 40}
    quotas = replace(ROOM, tokens=720, targets=400, **many)
    data = replace(DATA, mixture=(MixtureEntry("world", tasks),), batch_shape=quotas)
    with opened(data) as batches:
        first = next(batches)
    with opened(replace(data, share_prefix=True)) as batches:
        second = next(batches)
    with opened(replace(data, share_prefix=True, fill_rows=True)) as batches:
        third = next(batches)
    patches = MODEL.clip.num_patches
    made = apart, shared, filled = first.batch, second.batch, third.batch
    for batch, fill in ((each.batch, each.fill) for each in (first, second, third)):
        assert {name: quota.used for name, quota in fill.items()} == {
            "rows": batch.token_valid.any(1).sum(),
            "tokens": batch.token_valid.sum(),
            "targets": batch.target_valid.sum(),
            "images": (batch.image_source.max() + patches) // patches,
            "region_images": (batch.region_images >= 0).sum(),
            "regions": (batch.box_image >= 0).sum(),
            "grounding_images": (batch.resized_sizes.max(1) > 1).sum(),
            "masks": batch.mask_valid.sum(),
        }
        assert fill["tokens"].available == batch.token_valid.size
        assert fill["masks"].available == len(batch.mask_valid)
    images = [int((batch.image_source.max() + patches) // patches) for batch in made]
    assert images == [2, 6, 6]  # of six rows: three a picture, one, and less
    assert apart.segments is None
    assert filled.token_valid.any(1).sum() < shared.token_valid.any(1).sum() == 6


def test_what_never_fits_is_left_out_and_counted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(
        DATA,
        mixture=(MixtureEntry("world", ("gcg",)), MixtureEntry("world", ("caption",))),
        batch_shape=replace(ROOM, masks=2),
    )
    with opened(data) as batches:
        made = take(batches, 4)
        counts = batches.get_state()["shards"]["0"]["counts"]
    assert counts["miniworld, dropped: more masks than a batch has"] > 0
    assert all(batch.mask_valid.sum() in (0, 2) for batch in made)
    monkeypatch.setattr(loader, "MAX_UNUSABLE_RECORDS", 30)
    unbounded = replace(data, batch_shape=replace(ROOM, tokens=60), max_dropped=1.0)
    with (
        opened(unbounded) as batches,
        pytest.raises(DataError, match=r"30 records gave nothing .* no answer fits"),
    ):
        next(batches)


def _cut_picture(record: Record) -> Record:
    return replace(record, image=record.image[:90])


def _cut_masks(record: Record) -> Record:
    return replace(record, regions=tuple(replace(x, mask=b"cut") for x in record.regions))


def _absent(record: Record) -> Record:
    raise ShardError(f"{record.image_id} lies behind the cut of its file")


class Damaged(World):
    """Something is wrong with every other record."""

    def __init__(self, damage: Callable[[Record], Record]):
        self._damage = damage

    def is_damaged(self, index: int) -> bool:
        return bool(index % 2)

    def __getitem__(self, index: int) -> Record:
        made = super().__getitem__(index)
        return self._damage(made) if self.is_damaged(index) else made


@pytest.mark.parametrize(
    ("damage", "counted"),
    [
        (_cut_picture, f"miniworld, {UNREADABLE_IMAGE}"),
        (_cut_masks, f"miniworld, {UNREADABLE_RECORD}"),
        (_absent, f"world, {UNREADABLE_RECORD}"),  # which source it is of stands in what is gone
    ],
)
def test_what_cannot_be_read_is_counted_and_the_others_are_trained_on(
    damage: Callable[[Record], Record], counted: str
) -> None:
    data = replace(DATA, mixture=(MixtureEntry("world", ("referring",), conversation=ALONE),))
    unbounded = replace(data, max_unreadable=1.0, max_dropped=1.0)
    with opened(unbounded, world=Damaged(damage)) as batches:
        found = seen(take(batches, 4))
        state = json.loads(json.dumps(batches.get_state()))
    counts = state["shards"]["0"]["counts"]
    assert counts[counted] > 2
    [dropped] = dropped_samples(state)
    assert (dropped.dataset, dropped.count) == ("world", counts[counted])
    assert 0.3 < dropped.count / dropped.read < 0.7
    with opened(replace(data, max_dropped=1.0), world=Damaged(damage)) as batches:
        batches.set_state({**state, "shards": {"0": {"position": 0, "waiting": [], "counts": {}}}})
        message = r"'world', split 'train': 11 of \d+ .* than data.max_unreadable = 0.05: 11 x"
        with pytest.raises(DataError, match=message):
            take(batches, 9)
    assert {int(each.split()[1]) % 2 for each in found} == {0}


class Empty(World):
    """Has no records."""

    def __len__(self) -> int:
        return 0


def test_a_dataset_that_gives_nothing_ends_the_loading_though_others_go_on() -> None:
    entries = (MixtureEntry("world", ("caption",)), MixtureEntry("lost", ("caption",)))
    data = replace(DATA, mixture=entries)
    absent = Damaged(_absent)
    absent.is_damaged = lambda index: True  # type: ignore[method-assign]  # all
    with opened(data, world=World(), lost=absent) as batches:
        message = r"'lost', split 'train': 11 of 11 .*first: record \d+ of lost: \d+ lies behind"
        with pytest.raises(DataError, match=message):
            take(batches, 9)
    without = Damaged(lambda record: replace(record, annotations=()))
    without.is_damaged = lambda index: True  # type: ignore[method-assign]  # all
    with opened(data, world=World(), lost=without) as batches:
        message = r"11 of 11 records gave no sample, .*max_dropped = 0.5: 11 x caption: no annot"
        with pytest.raises(DataError, match=message):
            take(batches, 9)
    with pytest.raises(ConfigError, match="dataset 'lost': split 'train' has no records"):
        open_batches(data, MODEL, sources={"world": World(), "lost": Empty()})


def test_a_killed_worker_is_an_error_of_its_own() -> None:
    stream = iter(["x"])

    class Reads:
        def __next__(self) -> Any:
            next(stream)
            raise RuntimeError(
                "Worker process was terminated unexpectedly with exit code -9. Search the logs "
                "above for the source of the crash."
            )

        def __iter__(self) -> Any:
            return self

    slices = loader.SliceLoader([], DATA, MODEL, Reads())
    with pytest.raises(WorkerError, match=r"worker was killed \(.* exit code -9\); .*fewer data.w"):
        slices.next_batch()


@pytest.mark.parametrize("task", get_args(ConversationTask))
def test_trap_39_every_task_can_be_a_part_of_the_mixture(task: ConversationTask) -> None:
    """Semantic segmentation, too, which the original's fine-tuning cannot open."""
    quotas = replace(ROOM, tokens=400, targets=300, masks=24)
    with opened(
        replace(DATA, mixture=(MixtureEntry("world", (task,)),), batch_shape=quotas)
    ) as batches:
        batch = next(batches).batch
    assert batch.target_valid.any()
    assert batch.mask_valid.any() == (task in MASK_TASKS)
    assert (batch.region_source >= 0).any() == (task == "region")


def test_shards_on_disk_and_the_mini_world_are_found_by_name(tmp_path: Path) -> None:
    drawn = replace(DATA, mixture=(MixtureEntry("miniworld/easy", ("gcg",)),))
    with closing(open_batches(drawn, MODEL)) as batches:
        assert next(batches).batch.token_valid.any(1).sum() == 2
    for name, message in (
        ("miniworld/nowhere", "no mini-world 'nowhere'; there are easy, full"),
        (str(tmp_path), "no dataset_info.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_batches(replace(DATA, mixture=(MixtureEntry(name, ("gcg",)),)), MODEL)


def test_what_does_not_belong_together_is_said() -> None:
    with opened(DATA) as batches:
        state = batches.get_state()
    with pytest.raises(StateError, match="1 batch slices cannot be divided among 2 processes"):
        open_batches(DATA, MODEL, 0, 2, SOURCES)
    with opened(replace(DATA, seed=5)) as batches, pytest.raises(StateError, match="another mixt"):
        batches.set_state(state)
    two = replace(DATA, batch_slices=2)
    with opened(two, 1, 2) as batches:
        own = batches.get_state()
    with opened(two) as batches, pytest.raises(StateError, match=r"lacks the batch slices \[0\]"):
        batches.set_state(own)
    other = replace(MODEL, tokens=replace(MODEL.tokens, seg=3))
    with pytest.raises(TokenizerError, match="does not belong to this model"):
        open_batches(DATA, other, sources=SOURCES)

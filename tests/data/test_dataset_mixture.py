"""`train --data` makes the mixture from what the conversion has counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import glamm_jax.miniworld  # noqa: F401  # registers the scheme miniworld/NAME
from glamm_jax.config.experiment import ConversationConfig, MixtureEntry
from glamm_jax.data.dataset_mixture import mixture_of
from glamm_jax.errors import ConfigError

BARE = ConversationConfig(bare_image=True)
TEMPLATE = (
    MixtureEntry("shards/a/1.0.0", ("gcg",), weight=3.0),
    MixtureEntry("shards/a/1.0.0", ("region", "referring"), conversation=BARE),
)


def shards(folder: Path, **counts: int) -> Path:
    (folder / "reports").mkdir(parents=True)
    (folder / "reports" / "train.json").write_text(json.dumps({"counts": counts}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_there_is_an_entry_for_each_task_of_the_annotations(tmp_path: Path) -> None:
    folder = shards(tmp_path / "glamm_own" / "1.0.0", records=3, masks=4, gcg=2, region=1, vqa=5)
    entries = mixture_of([str(tmp_path)], TEMPLATE)
    assert {entry.dataset for entry in entries} == {str(folder)}
    assert [entry.tasks for entry in entries] == [("gcg",), ("region",), ("vqa",)]
    assert [entry.conversation.bare_image for entry in entries] == [False, True, False]
    assert sum(entry.weight for entry in entries) == pytest.approx(1, abs=1e-5)


def test_a_scheme_has_the_tasks_of_the_configuration() -> None:
    entries = mixture_of(["miniworld/easy@64"], TEMPLATE)
    assert [entry.tasks for entry in entries] == [("gcg",), ("region", "referring")]
    assert {entry.dataset for entry in entries} == {"miniworld/easy@64"}


def test_what_is_no_dataset_is_explained(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}")
    (tmp_path / "empty").mkdir()
    shards(tmp_path / "none", records=1)
    for name in ("one", "two"):
        shards(tmp_path / "both" / name / "1.0.0", gcg=1)
    for name, message in (
        ("absent", "no such folder"),
        ("own.jsonl", "glamm-jax convert dataset jsonl --source"),
        ("empty", "contains no dataset_info.json"),
        ("none", "no annotations in split 'train'"),
        ("both", "contains several datasets"),
    ):
        with pytest.raises(ConfigError, match=message):
            mixture_of([str(tmp_path / name)], TEMPLATE)

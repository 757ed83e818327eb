"""The mixture of a training on datasets that are named by their folders alone.

    entries = mixture_of(["shards"], config.data.mixture)    # `glamm-jax train --data shards`
    config = replace(config, data=replace(config.data, mixture=entries))

The tasks are those of the dataset's annotations, which the conversion has counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from glamm_jax.config.experiment import ConversationTask, MixtureEntry
from glamm_jax.data.record_sources import find_scheme
from glamm_jax.errors import ConfigError
from glamm_jax.json_files import read_object
from glamm_jax.storage import AnyPath, to_path

DATASET_INFO = "dataset_info.json"  # written last, so that a folder with it is complete
SUMMARY = "reports/{}.json"  # of the conversion of a split
DEPTH = 3  # levels of folders below the named one: NAME/VERSION, and one above


def mixture_of(paths: Sequence[str], template: Sequence[MixtureEntry]) -> tuple[MixtureEntry, ...]:
    """Return one entry for each dataset and task; the datasets have equal shares.

    Args:
        paths: folders of record shards, folders above exactly one of them, or SCHEME/NAME.
        template: entries of the configuration. An entry with the same task gives the conversation
            settings; those of a dataset without counts are used as they are.

    Raises:
        ConfigError: a path is no dataset, is ambiguous, or has no annotations for training.
    """
    entries: list[MixtureEntry] = []
    for path in paths:
        dataset = path if find_scheme(path) is not None else str(_dataset_folder(to_path(path)))
        own = _entries_of(dataset, template)
        total = sum(entry.weight for entry in own)
        entries += (replace(entry, weight=round(entry.weight / total, 6)) for entry in own)
    return tuple(entries)


def _dataset_folder(path: AnyPath) -> AnyPath:
    """Return the folder of record shards at or below a path."""
    if path.is_file():
        raise ConfigError(
            f"{path}: a file, but a training reads record shards: glamm-jax convert dataset jsonl "
            f"--source {path} --out shards; then --data shards"
        )
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder, and no SCHEME/NAME such as miniworld/easy@64")
    for depth in range(DEPTH):
        folders = [info.parent for info in sorted(path.glob("*/" * depth + DATASET_INFO))]
        if len(folders) > 1:
            names = ", ".join(map(str, folders))
            raise ConfigError(f"{path}: contains several datasets; name some of {names}")
        if folders:
            return folders[0]
    raise ConfigError(
        f"{path}: contains no {DATASET_INFO}, so no record shards; "
        "`glamm-jax convert dataset NAME --source DIR --out shards` writes them"
    )


def _entries_of(dataset: str, template: Sequence[MixtureEntry]) -> list[MixtureEntry]:
    """Return the entries of one dataset."""
    split = template[0].split
    summary = to_path(dataset) / SUMMARY.format(split.partition("[")[0])
    if not summary.is_file():  # of a scheme, or written by another program
        tasks = dict.fromkeys(entry.tasks for entry in template)
        first = {entry.tasks: entry for entry in reversed(template)}
        return [replace(first[names], dataset=dataset) for names in tasks]
    counts = read_object(summary).object("counts")
    available = [task for task in get_args(ConversationTask) if task in counts]
    if not available:
        raise ConfigError(f"{dataset}: no annotations in split {split!r} ({summary})")
    settings = {task: entry.conversation for entry in reversed(template) for task in entry.tasks}
    return [
        MixtureEntry(dataset, (task,), split=split, conversation=settings[task])
        if task in settings
        else MixtureEntry(dataset, (task,), split=split)
        for task in available
    ]

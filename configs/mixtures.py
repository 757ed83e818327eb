"""The parts of the paper's mixtures, as shares of a whole; a recipe here joins them.

Datasets lie where `python -m convert dataset NAME --out shards` puts them; another place is a
symbolic link away. Shares are those of the released training's options
(docs/training.md of the original).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from glamm_jax.config.experiment import ConversationConfig, ConversationTask, MixtureEntry

DATA = "shards"
BARE = ConversationConfig(bare_image=True)  # as the released weights have seen these
SEMANTIC = ("ade20k", "coco_stuff", "pascal_part", "paco_lvis", "mapillary")
REFERRING = ("refcoco", "refcoco_plus", "refcocog")
GRANDF = ("grandf_refcocog", "grandf_psg", "grandf_flickr", "grandf_ha")


def part(
    dataset: str, *tasks: ConversationTask, asking: ConversationConfig | None = None
) -> MixtureEntry:
    """A converted dataset, asked for some tasks."""
    return MixtureEntry(
        f"{DATA}/glamm_{dataset}/1.0.0", tasks, conversation=asking or ConversationConfig()
    )


def mixed(
    total: float, parts: Mapping[tuple[MixtureEntry, ...], float]
) -> tuple[MixtureEntry, ...]:
    """Groups of parts with their rates, brought to a total; a group shares its rate evenly."""
    whole = sum(parts.values())
    return tuple(
        replace(each, weight=round(total * rate / whole / len(group), 6))
        for group, rate in parts.items()
        for each in group
    )


def semantic() -> tuple[MixtureEntry, ...]:
    """Classes of five datasets, one drawn for each sample."""
    return tuple(part(name, "semantic") for name in SEMANTIC)


def referring(*names: str) -> tuple[MixtureEntry, ...]:
    """Referring expressions, one dataset drawn for each sample."""
    return tuple(part(name, "referring") for name in names)


def gcg(*names: str) -> tuple[MixtureEntry, ...]:
    """GranD_f's grounded captions."""
    return tuple(part(name, "gcg") for name in names)

"""Entries of the paper's data mixtures, and how groups of them share the sampling.

Datasets are expected where `glamm-jax convert dataset NAME --out shards` writes them; use a
symbolic link for another place. Sampling rates are those of the released training's options
(docs/training.md of the original).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from glamm_jax.config.experiment import ConversationConfig, ConversationTask, MixtureEntry

SHARDS = "shards"
BARE_IMAGE = ConversationConfig(bare_image=True)  # how the released weights were trained on some
SEMANTIC = ("ade20k", "coco_stuff", "pascal_part", "paco_lvis", "mapillary")
REFERRING = ("refcoco", "refcoco_plus", "refcocog")
GRANDF = ("grandf_refcocog", "grandf_psg", "grandf_flickr", "grandf_ha")


def entry(
    dataset: str, *tasks: ConversationTask, conversation: ConversationConfig | None = None
) -> MixtureEntry:
    """A converted dataset with the tasks that it is used for."""
    folder = f"{SHARDS}/glamm_{dataset}/1.0.0"
    return MixtureEntry(folder, tasks, conversation=conversation or ConversationConfig())


def mix(total: float, groups: Mapping[tuple[MixtureEntry, ...], float]) -> tuple[MixtureEntry, ...]:
    """Weight groups of entries by their rates; the entries of a group share its rate evenly.

    Args:
        total: sum of the resulting weights.
        groups: entries -> rate, relative to the other groups.
    """
    rates = sum(groups.values())
    return tuple(
        replace(item, weight=round(total * rate / rates / len(group), 6))
        for group, rate in groups.items()
        for item in group
    )


def semantic() -> tuple[MixtureEntry, ...]:
    """Semantic segmentation on five datasets."""
    return tuple(entry(name, "semantic") for name in SEMANTIC)


def referring(*names: str) -> tuple[MixtureEntry, ...]:
    """Referring expressions."""
    return tuple(entry(name, "referring") for name in names)


def gcg(*names: str) -> tuple[MixtureEntry, ...]:
    """Grounded captions of GranD_f."""
    return tuple(entry(name, "gcg") for name in names)

"""All datasets by name.

A module of this package that has a `DATASETS` contributes its entries. Libraries that only one
dataset needs are imported when that dataset is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from glamm_jax.data import sources
from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.defects import SourceError

MakeSource = Callable[[Path, str], DatasetSource]


def datasets() -> dict[str, MakeSource]:
    """Return the function that opens each dataset, by name.

    The function takes the data folder (for `jsonl` the file) and the split.
    """
    registered: dict[str, MakeSource] = {}
    for module in iter_modules(sources.__path__, f"{sources.__name__}."):
        if module.name == __name__:
            continue
        family: dict[str, MakeSource] = getattr(import_module(module.name), "DATASETS", {})
        duplicates = registered.keys() & family.keys()
        if duplicates:
            names = ", ".join(sorted(duplicates))
            raise ValueError(f"{module.name}: {names} is registered already")
        registered |= family
    return dict(sorted(registered.items()))


def find_dataset(name: str) -> MakeSource:
    """Return the function that opens a dataset.

    Raises:
        SourceError: there is no such dataset; names the closest match, then lists all.
    """
    available = datasets()
    if name in available:
        return available[name]
    matches = difflib.get_close_matches(name.lower(), available, n=1)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    raise SourceError(f"no dataset {name!r}; {hint}available: {', '.join(available)}")

"""Every dataset by name. A module of this package that has `DATASETS` is a family of them.

A family is imported when it is asked for; libraries that only it needs are imported when it reads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from glamm_jax.data import sources
from glamm_jax.data.record import DatasetSource
from glamm_jax.data.sources.source_files import SourceError

MakeSource = Callable[[Path, str], DatasetSource]


def datasets() -> dict[str, MakeSource]:
    """Name of a dataset -> what opens it, given its folder (or file) and a split."""
    found: dict[str, MakeSource] = {}
    for module in iter_modules(sources.__path__, f"{sources.__name__}."):
        if module.name == __name__:
            continue
        family: dict[str, MakeSource] = getattr(import_module(module.name), "DATASETS", {})
        twice = found.keys() & family.keys()
        if twice:
            raise ValueError(f"{module.name}: {', '.join(sorted(twice))} has a reader already")
        found |= family
    return dict(sorted(found.items()))


def find_dataset(name: str) -> MakeSource:
    """What opens a dataset.

    Raises: SourceError for an unknown name, with the nearest and all that are known.
    """
    known = datasets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SourceError(f"no dataset {name!r}; {hint}known are {', '.join(known)}")

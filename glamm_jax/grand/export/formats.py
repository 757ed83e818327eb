"""The exporters by the name of their format."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from glamm_jax.errors import ConfigError
from glamm_jax.grand.export.summary import ExportSummary

Exporter = Callable[..., ExportSummary]
# Format -> module, whose function has its name. They are imported when they are used: some need
# libraries that the others do not.
FORMATS = {
    "grand-json": "grand_json",
    "lmdb": "lmdb",
    "shards": "record_shards",
    "coco": "coco",
    "yolo": "yolo",
    "label-studio": "label_studio",
    "parquet": "parquet",
    "fiftyone": "fiftyone",
    "grandf": "grandf",
}


def find_exporter(name: str) -> Exporter:
    """Return the function that exports in a format.

    All take the items, the destination, and at least the keyword arguments `filters`, `overwrite`
    and `on_image`.

    Raises:
        ConfigError: there is no such format; lists all.
    """
    module = FORMATS.get(name)
    if module is None:
        raise ConfigError(f"no format {name!r}; available: {', '.join(FORMATS)}")
    return getattr(import_module(f"glamm_jax.grand.export.{module}"), f"export_{module}")

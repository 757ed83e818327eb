"""config.json of a model folder: which kind of model lies in it, and every number of it."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, SAMConfig
from glamm_jax.errors import ConfigError

FORMAT, VERSION = "glamm-jax", 1
CONFIG_FILE = "config.json"

AnyConfig = GLaMMConfig | CLIPConfig | LlamaConfig | SAMConfig
KINDS: Mapping[str, type[AnyConfig]] = {
    "glamm": GLaMMConfig,
    "clip": CLIPConfig,
    "llama": LlamaConfig,
    "sam": SAMConfig,
}
Config = TypeVar("Config")


def kind_of(config: AnyConfig) -> str:
    """The name under which a configuration is stored."""
    return next(kind for kind, cls in KINDS.items() if type(config) is cls)


def write_config(folder: Path, config: AnyConfig) -> None:
    """Write config.json. It is what makes a folder a model, so it is written last."""
    value = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind_of(config),
        "config": asdict(config),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_config(folder: Path) -> AnyConfig:
    """The configuration of a model folder.

    Raises: ConfigError naming the file and the field at fault, or saying what to convert.
    """
    path = folder / CONFIG_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{folder}: no model folder: config.json cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError(
            f"{folder}: not in our format; if it is a folder of the original, convert it: "
            f"python -m convert from-torch {folder} --clip CLIP_FOLDER --out MODEL"
        )
    if value.get("version") != VERSION or value.get("kind") not in KINDS:
        raise ConfigError(
            f"{path}: version {value.get('version')!r}, kind {value.get('kind')!r}; this release "
            f"reads version {VERSION} of {', '.join(KINDS)}"
        )
    try:
        return config_from_json(KINDS[value["kind"]], value.get("config"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_json(cls: type[Config], value: Any) -> Config:
    """A configuration from its JSON form, `asdict` turned around.

    Raises: ConfigError naming a field that is unknown, missing or impossible.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{cls.__name__}: an object is wanted, not {value!r}")
    known = {each.name for each in fields(cls)}  # type: ignore[arg-type]  # a dataclass
    for name in sorted(set(value) - known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{cls.__name__}.{name}: no such field{hint}")
    if missing := sorted(known - set(value)):
        raise ConfigError(f"{cls.__name__}: missing {', '.join(missing)}")
    kinds = get_type_hints(cls)
    try:
        return cls(**{name: _field(kinds[name], item) for name, item in value.items()})
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _field(kind: Any, value: Any) -> Any:
    options = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if is_dataclass(option):
            return config_from_json(option, value)  # type: ignore[type-var]  # a class, not an instance
        if get_origin(option) is tuple and isinstance(value, list):
            return tuple(_field(get_args(option)[0], item) for item in value)
    return value

"""config.json of a model folder: the kind of the model and its configuration."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glamm_jax.config import OPTIONAL, CLIPConfig, GLaMMConfig, LlamaConfig, SAMConfig
from glamm_jax.errors import ConfigError
from glamm_jax.json_files import JSONError, read_json, show
from glamm_jax.storage import AnyPath

FORMAT, VERSION = "glamm-jax", 1
CONFIG_FILE = "config.json"
SOURCE_INFO_FILE = "source.json"  # what an export needs

AnyConfig = GLaMMConfig | CLIPConfig | LlamaConfig | SAMConfig
KINDS: Mapping[str, type[AnyConfig]] = {
    "glamm": GLaMMConfig,
    "clip": CLIPConfig,
    "llama": LlamaConfig,
    "sam": SAMConfig,
}
Config = TypeVar("Config")


def kind_of(config: AnyConfig) -> str:
    """Return the name of a configuration's class in config.json."""
    return next(kind for kind, cls in KINDS.items() if type(config) is cls)


def write_config(folder: Path, config: AnyConfig) -> None:
    """Write config.json. A folder with it counts as complete, so it must be written last."""
    value = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind_of(config),
        "config": config_to_json(config),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_config(folder: AnyPath) -> AnyConfig:
    """Read the configuration of a model folder.

    Raises:
        ConfigError: config.json is missing, invalid, or of another format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: not a model folder: it has no config.json")
    try:
        value = read_json(path)
    except JSONError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError(
            f"{folder}: not a model folder of GLaMM-JAX; to convert a PyTorch checkpoint: "
            f"glamm-jax convert from-torch {folder} --clip CLIP_FOLDER --out MODEL"
        )
    version, kind = value.get("version"), value.get("kind")
    if type(version) is not int or version != VERSION or kind not in [*KINDS]:
        raise ConfigError(
            f"{path}: version {show(version)}, kind {show(kind)}; this release "
            f"reads version {VERSION} of {', '.join(KINDS)}"
        )
    try:
        return config_from_json(KINDS[kind], value.get("config"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_to_json(config: Any) -> Any:
    """Return the JSON form of a configuration; its optional fields only if they were changed."""
    if isinstance(config, tuple):
        return [config_to_json(item) for item in config]
    if not is_dataclass(config):
        return config
    values = {field: getattr(config, field.name) for field in fields(config)}
    return {
        field.name: config_to_json(value)
        for field, value in values.items()
        if not _is_optional(field) or value != field.default
    }


def _is_optional(field: Field) -> bool:
    return field.metadata == OPTIONAL


def config_from_json(cls: type[Config], value: Any) -> Config:
    """Build a configuration from its JSON form; the inverse of `config_to_json`.

    Raises:
        ConfigError: a field is unknown, missing or has an impossible value.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{cls.__name__}: an object is expected, not {show(value)}")
    own_fields = fields(cls)  # type: ignore[arg-type]  # a dataclass
    names = {field.name for field in own_fields}
    required = {field.name for field in own_fields if not _is_optional(field)}
    for name in sorted(set(value) - names):
        similar = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ConfigError(f"{cls.__name__}.{name}: no such field{hint}")
    if missing := sorted(required - set(value)):
        raise ConfigError(f"{cls.__name__}: missing {', '.join(missing)}")
    types_by_name = get_type_hints(cls)
    try:
        return cls(**{name: _convert(types_by_name[name], item) for name, item in value.items()})
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:  # checks of impossible values
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _convert(field_type: Any, value: Any) -> Any:
    """Convert the JSON form of a field's value."""
    options = get_args(field_type) if isinstance(field_type, types.UnionType) else (field_type,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if is_dataclass(option):
            return config_from_json(option, value)  # type: ignore[type-var]  # a class
        if get_origin(option) is tuple and isinstance(value, list):
            return tuple(_convert(get_args(option)[0], item) for item in value)
    return value

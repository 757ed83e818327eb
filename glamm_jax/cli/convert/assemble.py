"""Which checkpoints make which model: their tensors put together under GLaMM's names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glamm_jax.config import GLaMMConfig
from glamm_jax.models.abstract import abstract_model
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from glamm_jax.weights.checkpoint_files import Checkpoint, open_checkpoint, read_hf_config
from glamm_jax.weights.config_file import AnyConfig, config_from_json
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX
from glamm_jax.weights.hf_config import GLAMM_JAX_KEY
from glamm_jax.weights.infer_config import (
    Family,
    clip_config,
    glamm_config,
    llama_config,
    lora_config,
    sam_config,
)
from glamm_jax.weights.initial_tensors import InitialSource
from glamm_jax.weights.rules import WeightsError, tensor_shapes
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_names import DROPPED, glamm_name
from glamm_jax.weights.tensor_sources import (
    JoinedSource,
    RenamedSource,
    ResizedVocabularySource,
    TensorSource,
    shapes_of,
)

# What a starting point may lack: it is drawn from the seed.
FRESH = ("model.mm_projector.", "model.text_hidden_fcs.", REGION_PREFIX)


@dataclass(frozen=True)
class Request:
    """What the command line names."""

    source: Path
    clip: Path | None = None
    sam: Path | None = None
    region: Path | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    lora_alpha: float = 16.0
    seed: int = 0


@dataclass(frozen=True)
class Assembly:
    """A model about to be written: configuration, tensors, and what the way back needs.

    described: the config.json of each family. dropped: why tensors were left behind -> how many.
    """

    config: AnyConfig
    tensors: TensorSource
    hf_configs: dict[Family, dict[str, Any]]
    tokenizer: Path | None
    dropped: dict[str, int]


def assemble(request: Request) -> Assembly:
    """Open what the request names and put it together.

    Raises: TensorFileError, WeightsError, ConfigError or TokenizerError saying what is wrong.
    """
    main = open_checkpoint(request.source)
    if main.family == "glamm" or (main.family == "llama" and request.sam is not None):
        return _glamm(request, main)
    parts = {name: getattr(request, name) for name in ("clip", "sam", "region", "adapter")}
    if extra := [name for name, path in parts.items() if path is not None]:
        raise WeightsError(
            f"{main.path} is a {main.family} checkpoint: --{extra[0]} completes a GLaMM, or a "
            "LLaMA together with --clip and --sam"
        )
    return _part(request, main)


def _part(request: Request, main: Checkpoint) -> Assembly:
    """CLIP, LLaMA or SAM alone, under its own names."""
    tensors, described = main.tensors, {main.family: main.hf_config}
    if main.family == "clip":
        tensors = RenamedSource(tensors, lambda name: name if glamm_name("clip", name) else None)
        config = clip_config(shapes_of(tensors), main.hf_config)
        return Assembly(config, tensors, described, None, _dropped((main, tensors)))
    if main.family == "sam":
        return Assembly(sam_config(shapes_of(main.tensors)), tensors, described, None, {})
    if main.family == "llama":
        has_one = (main.path / "tokenizer.model").is_file()
        tokenizer = request.tokenizer or (main.path if has_one else None)
        config = llama_config(
            shapes_of(main.tensors), main.hf_config, str(main.path / "config.json")
        )
        return Assembly(config, tensors, described, tokenizer, {})
    how = "--adapter beside its base" if main.family == "adapter" else "--region beside a LLaMA"
    raise WeightsError(f"{main.path}: {main.family} is no model by itself: give it with {how}")


def _glamm(request: Request, main: Checkpoint) -> Assembly:
    """A whole GLaMM: released, of a training, or put together from its parts."""
    folder = request.tokenizer or (main.path if main.path.is_dir() else main.path.parent)
    tokenizer = load_tokenizer(folder)
    if not main.hf_config:  # a file: the folder that the training started from knows
        main = replace(main, described=read_hf_config(folder))
    opened = [(main, _main_tensors(request, main))]
    parts: tuple[tuple[Family, Path | None], ...] = (
        ("clip", request.clip),
        ("sam", request.sam),
        ("gpt4roi", request.region),
        ("adapter", request.adapter),
    )
    for family, path in parts:
        if path is not None:
            part = _opened(path, family)
            rename = lambda name, family=family: glamm_name(family, name)  # noqa: E731
            opened.append((part, RenamedSource(part.tensors, rename)))
    described = {part.family: part.hf_config for part, _ in opened}
    tensors: TensorSource = JoinedSource([source for _, source in opened])
    if not any(name.startswith(CLIP_PREFIX) for name in tensors.infos):
        raise WeightsError(f"{main.path} holds no CLIP (trap 27): name its folder with --clip")
    if main.family == "llama":
        tensors = ResizedVocabularySource(tensors, tokenizer.size, request.seed)
        described["llama"] = main.hf_config | {"vocab_size": tokenizer.size}
    config = _glamm_config(request, tensors, described, tokenizer)
    if main.family == "llama":
        tensors = JoinedSource([tensors, _fresh_layers(config, tensors, request.seed)])
    _check_vocabulary(config, tokenizer, folder, main)
    return Assembly(config, tensors, described, folder, _dropped(*opened))


def _main_tensors(request: Request, main: Checkpoint) -> TensorSource:
    """GLaMM's or LLaMA's own; a CLIP that is named apart replaces the one inside."""

    def rename(name: str) -> str | None:
        own = glamm_name(main.family, name)
        replaced = request.clip is not None and own is not None and own.startswith(CLIP_PREFIX)
        return None if replaced else own

    return RenamedSource(main.tensors, rename)


def _glamm_config(
    request: Request,
    tensors: TensorSource,
    described: dict[Family, dict[str, Any]],
    tokenizer: Tokenizer,
) -> GLaMMConfig:
    main = described.get("glamm") or described.get("llama") or {}
    adapter = described.get("adapter", {"lora_alpha": request.lora_alpha})
    found, tokens = shapes_of(tensors), tokenizer.tokens
    if GLAMM_JAX_KEY in main:
        own = config_from_json(GLaMMConfig, main[GLAMM_JAX_KEY])
        return replace(own, tokens=tokens, lora=lora_config(found, adapter))
    clip = described.get("clip", {})
    what = str(request.source / "config.json")
    return glamm_config(found, main, clip, tokens=tokens, adapter_config=adapter, source_name=what)


def _fresh_layers(config: GLaMMConfig, tensors: TensorSource, seed: int) -> TensorSource:
    """What no part brings and a training may start from nothing."""
    wanted = tensor_shapes(table_of(config), state_shapes(abstract_model(config)[1]))
    absent = {name: s for name, s in wanted.items() if name not in tensors.infos}
    return InitialSource({n: s for n, s in absent.items() if n.startswith(FRESH)}, seed)


def _check_vocabulary(
    config: GLaMMConfig, tokenizer: Tokenizer, folder: Path, main: Checkpoint
) -> None:
    """One id, one row; and config.json must mean the same `<bbox>` (trap 25)."""
    if tokenizer.size != config.llama.vocab_size:
        raise WeightsError(
            f"the tokenizer in {folder} has {tokenizer.size} ids, the embeddings of {main.path} "
            f"{config.llama.vocab_size} rows: they do not belong together. Name the right "
            "tokenizer with --tokenizer"
        )
    told = main.hf_config.get("bbox_token_idx", config.tokens.region)
    if told != config.tokens.region:
        raise WeightsError(
            f"{main.path}: config.json says bbox_token_idx {told}, but <bbox> is "
            f"{config.tokens.region} in the tokenizer in {folder}"
        )


def _opened(path: Path, family: Family) -> Checkpoint:
    part = open_checkpoint(path)
    if part.family != family:
        raise WeightsError(f"{path} is a {part.family} checkpoint, not {family}")
    return part


def _dropped(*parts: tuple[Checkpoint, TensorSource]) -> dict[str, int]:
    """How many tensors of each source were left behind, and why."""
    counts = {p.family: len(p.tensors.infos) - len(source.infos) for p, source in parts}
    return {DROPPED[family]: count for family, count in counts.items() if count}

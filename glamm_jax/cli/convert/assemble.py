"""Assembly of a model from checkpoints: all tensors, under GLaMM's names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from glamm_jax.config import GLaMMConfig
from glamm_jax.models.abstract import abstract_model
from glamm_jax.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer
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

# Tensors that may be missing when a GLaMM is assembled from a LLaMA; they are initialized.
INITIALIZED_PREFIXES = ("model.mm_projector.", "model.text_hidden_fcs.", REGION_PREFIX)


@dataclass(frozen=True)
class Request:
    """Checkpoints to assemble: the options of the command line.

    Attributes:
        source: checkpoint of any family.
        clip: CLIP folder.
        sam: SAM file.
        region: GPT4RoI folder.
        adapter: folder of a peft adapter.
        tokenizer: folder of the tokenizer; None: that of `source`.
        lora_alpha: of adapters without an adapter_config.json.
        seed: of initialized tensors.
    """

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
    """A model to be written.

    Attributes:
        config: of the model.
        tensors: under GLaMM's names, or under their own for a CLIP, LLaMA or SAM alone.
        hf_configs: config.json of every family.
        tokenizer: folder of the tokenizer.
        num_dropped: {reason: number of tensors}.
    """

    config: AnyConfig
    tensors: TensorSource
    hf_configs: dict[Family, dict[str, Any]]
    tokenizer: Path | None
    num_dropped: dict[str, int]


def assemble(request: Request) -> Assembly:
    """Open the checkpoints and join their tensors.

    Raises:
        TensorFileError: a file is missing or cannot be used.
        WeightsError: a checkpoint is of the wrong family, or they do not belong together.
        ConfigError: a configuration is invalid.
        TokenizerError: the tokenizer is missing or invalid.
    """
    main = open_checkpoint(request.source)
    if main.family == "glamm" or (main.family == "llama" and request.sam is not None):
        return _assemble_glamm(request, main)
    for name in ("clip", "sam", "region", "adapter"):
        if getattr(request, name) is not None:
            raise WeightsError(
                f"{main.path} is a {main.family} checkpoint: --{name} can only be combined with a "
                "GLaMM, or with a LLaMA together with --clip and --sam"
            )
    return _assemble_component(request, main)


def _assemble_component(request: Request, main: Checkpoint) -> Assembly:
    """Assemble a model folder of CLIP, LLaMA or SAM alone, under its own names."""
    tensors, hf_configs = main.tensors, {main.family: main.hf_config}
    if main.family == "clip":
        tensors = RenamedSource(tensors, lambda name: name if glamm_name("clip", name) else None)
        config = clip_config(shapes_of(tensors), main.hf_config)
        return Assembly(config, tensors, hf_configs, None, _count_dropped((main, tensors)))
    if main.family == "sam":
        return Assembly(sam_config(shapes_of(tensors)), tensors, hf_configs, None, {})
    if main.family == "llama":
        tokenizer = request.tokenizer or (main.path if has_tokenizer(main.path) else None)
        config = llama_config(shapes_of(tensors), main.hf_config, str(main.path / "config.json"))
        return Assembly(config, tensors, hf_configs, tokenizer, {})
    option = (
        "--adapter, together with a GLaMM"
        if main.family == "adapter"
        else "--region, together with a LLaMA"
    )
    raise WeightsError(f"{main.path}: {main.family} is not a model by itself; pass it as {option}")


def _assemble_glamm(request: Request, main: Checkpoint) -> Assembly:
    """Assemble a GLaMM: released, of a training, or from its components."""
    tokenizer_folder = request.tokenizer
    if tokenizer_folder is None:
        tokenizer_folder = main.path if main.path.is_dir() else main.path.parent
    tokenizer = load_tokenizer(tokenizer_folder)
    if not main.hf_config:
        # A training checkpoint is a file; the folder that the training started from has the config.
        main = replace(main, hf_config=read_hf_config(tokenizer_folder))

    def main_name(name: str) -> str | None:
        new_name = glamm_name(main.family, name)
        if request.clip is not None and new_name is not None and new_name.startswith(CLIP_PREFIX):
            return None  # replaced by the CLIP of --clip
        return new_name

    parts = [(main, RenamedSource(main.tensors, main_name))]
    options: tuple[tuple[Family, Path | None], ...] = (
        ("clip", request.clip),
        ("sam", request.sam),
        ("gpt4roi", request.region),
        ("adapter", request.adapter),
    )
    for family, path in options:
        if path is None:
            continue
        part = open_checkpoint(path)
        if part.family != family:
            raise WeightsError(f"{path} is a {part.family} checkpoint, not {family}")
        parts.append((part, RenamedSource(part.tensors, partial(glamm_name, family))))
    hf_configs = {part.family: part.hf_config for part, _ in parts}
    tensors: TensorSource = JoinedSource([source for _, source in parts])
    if not any(name.startswith(CLIP_PREFIX) for name in tensors.infos):
        # quirk 27: the original saves its checkpoints without CLIP.
        raise WeightsError(
            f"{main.path}: contains no CLIP, since the original does not save it; pass CLIP's "
            "folder with --clip"
        )
    if main.family == "llama":
        tied = main.hf_config.get("tie_word_embeddings") is True
        tensors = ResizedVocabularySource(tensors, tokenizer.size, request.seed, tied)
        hf_configs["llama"] = main.hf_config | {"vocab_size": tokenizer.size}
    config = _infer_config(request, tensors, hf_configs, tokenizer)
    if main.family == "llama":
        expected = tensor_shapes(table_of(config), state_shapes(abstract_model(config)[1]))
        missing = {
            name: shape
            for name, shape in expected.items()
            if name not in tensors.infos and name.startswith(INITIALIZED_PREFIXES)
        }
        tensors = JoinedSource([tensors, InitialSource(missing, request.seed)])
    if tokenizer.size != config.llama.vocab_size:
        raise WeightsError(
            f"the tokenizer in {tokenizer_folder} has {tokenizer.size} ids, but the embeddings of "
            f"{main.path} have {config.llama.vocab_size} rows; pass the model's tokenizer with "
            "--tokenizer"
        )
    # quirk 25: the original takes the id of <bbox> from config.json, whatever the tokenizer says.
    region_id = main.hf_config.get("bbox_token_idx", config.tokens.region)
    if region_id != config.tokens.region:
        raise WeightsError(
            f"{main.path}: bbox_token_idx is {region_id} in config.json, but <bbox> is "
            f"{config.tokens.region} in the tokenizer in {tokenizer_folder}"
        )
    return Assembly(config, tensors, hf_configs, tokenizer_folder, _count_dropped(*parts))


def _infer_config(
    request: Request,
    tensors: TensorSource,
    hf_configs: dict[Family, dict[str, Any]],
    tokenizer: Tokenizer,
) -> GLaMMConfig:
    hf_config = hf_configs.get("glamm") or hf_configs.get("llama") or {}
    adapter = hf_configs.get("adapter", {"lora_alpha": request.lora_alpha})
    shapes = shapes_of(tensors)
    if GLAMM_JAX_KEY in hf_config:
        config = config_from_json(GLaMMConfig, hf_config[GLAMM_JAX_KEY])
        return replace(config, tokens=tokenizer.tokens, lora=lora_config(shapes, adapter))
    return glamm_config(
        shapes,
        hf_config,
        hf_configs.get("clip", {}),
        tokens=tokenizer.tokens,
        adapter_config=adapter,
        source_name=str(request.source / "config.json"),
    )


def _count_dropped(*parts: tuple[Checkpoint, TensorSource]) -> dict[str, int]:
    """Count the tensors of every checkpoint that its source leaves out, by reason."""
    counts = {part.family: len(part.tensors.infos) - len(source.infos) for part, source in parts}
    return {DROPPED[family]: count for family, count in counts.items() if count}

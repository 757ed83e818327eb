"""Assembly of a model from checkpoints: all tensors, under GLaMM's names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glamm_jax.config import CLIPConfig, GLaMMConfig, LoRAConfig
from glamm_jax.json_files import JSONObject
from glamm_jax.models.abstract import abstract_model
from glamm_jax.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer
from glamm_jax.weights.adapter import UniformAdapter, check_saved_modules
from glamm_jax.weights.checkpoint_files import Checkpoint, open_checkpoint, read_hf_config
from glamm_jax.weights.config_file import KINDS, AnyConfig, config_from_json
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
from glamm_jax.weights.peft_config import ADAPTER_CONFIG, AdapterSettings, adapter_settings
from glamm_jax.weights.rules import Shapes, WeightsError, tensor_shapes
from glamm_jax.weights.stored_config import check_stored_clip, check_stored_glamm
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_names import DROPPED, glamm_name
from glamm_jax.weights.tensor_sources import (
    JoinedSource,
    OverlaidSource,
    RenamedSource,
    ResizedVocabularySource,
    TensorSource,
    shapes_of,
)

# Tensors that may be missing when a GLaMM is assembled from a LLaMA; they are initialized.
INITIALIZED_PREFIXES = ("model.mm_projector.", "model.text_hidden_fcs.", REGION_PREFIX)
MAX_PADDING = 512  # rows of a vocabulary beyond the ids of the tokenizer


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
        lora_alpha: of adapters without an adapter_config.json; None: as released, for those of a
            training checkpoint.
        seed: of initialized tensors.
    """

    source: Path
    clip: Path | None = None
    sam: Path | None = None
    region: Path | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    lora_alpha: float | None = None
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
        originals: the adapter's tensors that were changed, as they were.
        not_exported: tensors of layers that the adapter does not adapt.
        replaced: tensors without LoRA that the adapter replaced.
        warnings: sentences for the user.
    """

    config: AnyConfig
    tensors: TensorSource
    hf_configs: dict[Family, dict[str, Any]]
    tokenizer: Path | None
    num_dropped: dict[str, int]
    originals: TensorSource | None = None
    not_exported: frozenset[str] = frozenset()
    replaced: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class _Adapter:
    """What is known of the adapters of a model while it is assembled.

    Attributes:
        settings: of adapter_config.json; None: there are no adapters, or injected ones without it.
        replaced: tensors without LoRA that the adapter replaces.
        lora: the configuration of the uniform adapters.
        source: the uniform adapters, with all other tensors.
    """

    settings: AdapterSettings | None = None
    replaced: tuple[str, ...] = ()
    lora: LoRAConfig | None = None
    source: UniformAdapter | None = None
    warnings: list[str] = field(default_factory=list)


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
        main = _with_config(main, None)
        config = component_config("clip", main.hf_config) or clip_config(
            shapes_of(tensors), main.hf_config, is_alone=True
        )
        dropped = _count_dropped((main, tensors))
        return Assembly(config, tensors, hf_configs, None, dropped, warnings=main.warnings)
    if main.family == "sam":
        config = component_config("sam", main.hf_config) or sam_config(shapes_of(tensors))
        return Assembly(config, tensors, hf_configs, None, main.num_dropped, warnings=main.warnings)
    if main.family == "llama":
        tokenizer = request.tokenizer or (main.path if has_tokenizer(main.path) else None)
        main = _with_config(main, tokenizer)
        where = str(_folder(main.path) / "config.json")
        config = llama_config(shapes_of(tensors), main.hf_config, where)
        hf_configs = {"llama": main.hf_config}
        return Assembly(
            config, tensors, hf_configs, tokenizer, main.num_dropped, warnings=main.warnings
        )
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
        tokenizer_folder = _folder(main.path)
    tokenizer = load_tokenizer(tokenizer_folder)
    main = _with_config(main, tokenizer_folder)

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
    )
    for family, path in options:
        if path is None:
            continue
        part = open_checkpoint(path)
        _check_family(part, family)
        if family == "clip" and not part.hf_config:
            part = replace(part, warnings=(*part.warnings, _assumed(part)))
        parts.append((part, RenamedSource(part.tensors, partial(glamm_name, family))))
    hf_configs = {part.family: part.hf_config for part, _ in parts}
    tensors: TensorSource = JoinedSource([source for _, source in parts])
    dropped = _count_dropped(*parts)
    tensors, adapter = _with_adapter(request, main, tensors, hf_configs, dropped)
    if count := sum(name in adapter.replaced for _, part in parts for name in part.infos):
        dropped["replaced by modules that the adapter contains"] = count
    if not any(name.startswith(CLIP_PREFIX) for name in tensors.infos):
        # quirk 27: the original saves its checkpoints without CLIP.
        raise WeightsError(
            f"{main.path}: contains no CLIP, since the original does not save it; pass CLIP's "
            "folder with --clip"
        )
    num_rows = _vocabulary_rows(tensors, main.path)
    if main.family == "llama":
        tied = main.hf_config.get("tie_word_embeddings") is True
        tensors = ResizedVocabularySource(tensors, tokenizer.size, request.seed, tied)
        num_rows = max(num_rows, tokenizer.size)
    if main.family == "llama" or adapter.replaced:
        hf_configs[main.family] = main.hf_config | {"vocab_size": num_rows}
    if adapter.settings is not None:
        tensors = _make_uniform(adapter, tensors)
    config = _infer_config(request, tensors, hf_configs, tokenizer, adapter)
    if main.family == "llama":
        expected = tensor_shapes(table_of(config), leaf_shapes(config))
        missing = {
            name: shape
            for name, shape in expected.items()
            if name not in tensors.infos and name.startswith(INITIALIZED_PREFIXES)
        }
        tensors = JoinedSource([tensors, InitialSource(missing, request.seed)])
    if not _is_padded(config.llama.vocab_size, tokenizer.size):
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
    warnings = [warning for part, _ in parts for warning in part.warnings] + adapter.warnings
    uniform = adapter.source
    return Assembly(
        config,
        tensors,
        hf_configs,
        tokenizer_folder,
        dropped,
        originals=uniform.originals() if uniform else None,
        not_exported=uniform.added if uniform else frozenset(),
        replaced=adapter.replaced,
        warnings=tuple(warnings),
    )


@cache
def leaf_shapes(config: AnyConfig) -> Shapes:
    """Return path and shape of every leaf of a model. Tracing it takes seconds."""
    return MappingProxyType(state_shapes(abstract_model(config)[1]))


def component_config(kind: str, hf_config: dict[str, Any]) -> AnyConfig | None:
    """Return the configuration that an export added to a config.json; None: there is none.

    Raises:
        ConfigError: it is invalid.
        WeightsError: it contradicts the other keys.
    """
    if GLAMM_JAX_KEY not in hf_config:
        return None
    config = config_from_json(KINDS[kind], hf_config[GLAMM_JAX_KEY])
    if isinstance(config, CLIPConfig):
        check_stored_clip(config, hf_config, "CLIP's config.json", "")
    return config


def _folder(path: Path) -> Path:
    """Return the folder of a checkpoint, which is a folder or a file."""
    return path if path.is_dir() else path.parent


def _with_config(main: Checkpoint, tokenizer_folder: Path | None) -> Checkpoint:
    """Add the config.json of a checkpoint that lacks it.

    A training checkpoint is a file; the folder that the training started from has the config.

    Raises:
        WeightsError: a LLaMA has none; the frequencies of its positions, for example, are unknown.
    """
    if main.hf_config:
        return main
    for folder in (tokenizer_folder, _folder(main.path)):
        if folder is not None and (hf_config := read_hf_config(folder)):
            return replace(main, hf_config=hf_config)
    place = _folder(main.path) / "config.json"
    if main.family == "llama":
        raise WeightsError(
            f"{place}: no such file, so the number of heads and the rotary embeddings are unknown; "
            "copy it from the model's source"
        )
    return replace(main, warnings=(*main.warnings, _assumed(main)))


def _assumed(part: Checkpoint) -> str:
    """Return the warning about a checkpoint without a config.json."""
    values = (
        "number of heads, activation and epsilon are assumed to be those of OpenAI's"
        if part.family == "clip"
        else "rope_theta 10000 and rms_norm_eps 1e-6 are assumed"
    )
    return f"{_folder(part.path) / 'config.json'}: no such file; {values}; copy it if there is one"


def _check_family(part: Checkpoint, family: Family) -> None:
    if part.family != family:
        raise WeightsError(f"{part.path} is a {part.family} checkpoint, not {family}")


def _with_adapter(
    request: Request,
    main: Checkpoint,
    tensors: TensorSource,
    hf_configs: dict[Family, dict[str, Any]],
    dropped: dict[str, int],
) -> tuple[TensorSource, _Adapter]:
    """Add the adapter of --adapter, or read the settings of injected adapters.

    Its config.json and the numbers of its dropped tensors are added to `hf_configs` and `dropped`.
    """
    folder = _folder(main.path)
    if request.adapter is None:
        adapter = _Adapter()
        if not any(".lora_" in name for name in tensors.infos):
            return tensors, adapter
        hf_config = read_hf_config(folder, ADAPTER_CONFIG)
        if hf_config:
            hf_configs["adapter"] = hf_config
            where = str(folder / ADAPTER_CONFIG)
            adapter.settings = adapter_settings(JSONObject(hf_config, where))
            adapter.warnings += adapter.settings.warnings
        return tensors, adapter
    part = open_checkpoint(request.adapter, is_adapter=True)
    _check_family(part, "adapter")
    overlay = RenamedSource(part.tensors, partial(glamm_name, "adapter"))
    matrices = [name for name in overlay.infos if ".lora_A." in name]
    folder = _folder(part.path)
    hf_config = part.hf_config or read_hf_config(folder, ADAPTER_CONFIG)
    where = str(folder / ADAPTER_CONFIG)
    if hf_config:
        settings = adapter_settings(JSONObject(hf_config, where))
    elif request.lora_alpha is None:
        raise WeightsError(
            f"{where}: no such file, so the scale of the adapter is unknown; copy the file, or "
            "pass --lora-alpha"
        )
    else:
        rank = overlay.infos[matrices[0]].shape[0] if matrices else 1
        settings = AdapterSettings(where, rank, request.lora_alpha, LoRAConfig().dropout)
    replaced = tuple(name for name in overlay.infos if ".lora_" not in name)
    check_saved_modules(settings, [*replaced])
    hf_configs["adapter"] = hf_config
    for reason, count in part.num_dropped.items():
        dropped[reason] = dropped.get(reason, 0) + count
    adapter = _Adapter(settings, replaced, warnings=[*part.warnings, *settings.warnings])
    return OverlaidSource(tensors, overlay), adapter


def _make_uniform(adapter: _Adapter, tensors: TensorSource) -> UniformAdapter:
    """Give the adapters one rank and one scale."""
    settings = adapter.settings
    assert settings is not None
    uniform = UniformAdapter(tensors, settings)
    is_plain = uniform.scale == settings.alpha / uniform.rank
    alpha = settings.alpha if is_plain else uniform.scale * uniform.rank
    hf_config = {"lora_alpha": alpha, "lora_dropout": settings.dropout}
    adapter.lora = lora_config(shapes_of(uniform), hf_config)
    adapter.source = uniform
    return uniform


def _vocabulary_rows(tensors: TensorSource, path: Path) -> int:
    """Return the number of rows of the embeddings and of the head.

    Raises:
        WeightsError: they differ.
    """
    rows = {
        name: tensors.infos[name].shape[0]
        for name in ResizedVocabularySource.RESIZED
        if name in tensors.infos and tensors.infos[name].shape
    }
    if len(set(rows.values())) > 1:
        stated = ", but ".join(f"{name} has {count} rows" for name, count in rows.items())
        raise WeightsError(f"{path}: {stated}; resize both to the same vocabulary")
    return next(iter(rows.values()), 0)


def _is_padded(num_rows: int, num_ids: int) -> bool:
    """Return whether a vocabulary is that of the tokenizer, or padded to a multiple of 8 or more.

    A tokenizer of fewer ids is also what a wrong one looks like, so the padding is bounded.
    """
    num_padding = num_rows - num_ids
    return num_padding == 0 or (num_rows % 8 == 0 and 0 < num_padding < MAX_PADDING)


def _infer_config(
    request: Request,
    tensors: TensorSource,
    hf_configs: dict[Family, dict[str, Any]],
    tokenizer: Tokenizer,
    adapter: _Adapter,
) -> GLaMMConfig:
    hf_config = hf_configs.get("glamm") or hf_configs.get("llama") or {}
    shapes = shapes_of(tensors)
    alpha = request.lora_alpha
    lora = adapter.lora or lora_config(shapes, {} if alpha is None else {"lora_alpha": alpha})
    is_assumed = lora is not None and adapter.settings is None and alpha is None
    if GLAMM_JAX_KEY in hf_config:
        config = config_from_json(GLaMMConfig, hf_config[GLAMM_JAX_KEY])
        where = str(_folder(request.source) / "config.json")
        check_stored_glamm(config, hf_config, where)
        check_stored_clip(config.clip, hf_configs.get("clip", {}), where, "clip")
        stored = config.lora
        if (
            is_assumed
            and stored
            and lora == replace(stored, alpha=LoRAConfig().alpha, dropout=LoRAConfig().dropout)
        ):
            lora, is_assumed = stored, False
        if adapter.replaced:
            llama = replace(config.llama, vocab_size=hf_config["vocab_size"])
            config = replace(config, llama=llama)
        config = replace(config, tokens=tokenizer.tokens)
    else:
        config = _infer_glamm(request, shapes, hf_configs, hf_config, tokenizer)
    if is_assumed and lora is not None:
        adapter.warnings.append(
            f"{request.source}: has no adapter_config.json; alpha {lora.alpha:g} of the adapters "
            "is assumed, as released; --lora-alpha sets another"
        )
    return replace(config, lora=lora)


def _infer_glamm(
    request: Request,
    shapes: Shapes,
    hf_configs: dict[Family, dict[str, Any]],
    hf_config: dict[str, Any],
    tokenizer: Tokenizer,
) -> GLaMMConfig:
    shapes = {name: shape for name, shape in shapes.items() if ".lora_" not in name}
    return glamm_config(
        shapes,
        hf_config,
        hf_configs.get("clip", {}),
        tokens=tokenizer.tokens,
        source_name=str(request.source / "config.json"),
    )


def _count_dropped(*parts: tuple[Checkpoint, TensorSource]) -> dict[str, int]:
    """Count the tensors of every checkpoint that its source leaves out, by reason."""
    counts = {part.family: len(part.tensors.infos) - len(source.infos) for part, source in parts}
    dropped = {DROPPED[family]: count for family, count in counts.items() if count}
    for part, _ in parts:
        for reason, count in part.num_dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return dropped

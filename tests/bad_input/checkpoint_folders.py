"""Cases of unusable checkpoints and model folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy

from glamm_jax.cli.convert.assemble import Request, assemble
from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.transfer import import_tensors
from tests.bad_input.case import Case
from tests.bad_input.weight_files import open_and_assemble, valid_file
from tests.weights.checkpoints import BFLOAT16, TOKENIZER

_CHECKPOINTS = "Checkpoints to convert"
_FOLDERS = "Model folders"


def _llama(**changed: Any) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a LLaMA of one layer and hidden size 8; None removes a tensor."""
    shapes: dict[str, Any] = {"model.embed_tokens.weight": (807, 8), "lm_head.weight": (807, 8)}
    shapes |= {"model.norm.weight": (8,)}
    layer = "model.layers.0."
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"{layer}self_attn.{name}.weight"] = (8, 8)
    shapes |= {f"{layer}mlp.{name}.weight": (16, 8) for name in ("gate_proj", "up_proj")}
    shapes |= {f"{layer}mlp.down_proj.weight": (8, 16)}
    shapes |= {f"{layer}{name}.weight": (8,) for name in _NORMS}
    return {name: shape for name, shape in (shapes | changed).items() if shape is not None}


_NORMS = ("input_layernorm", "post_attention_layernorm")
_LLAMA = {"num_attention_heads": 2}


def _checkpoint(
    shapes: dict[str, tuple[int, ...]], hf_config: dict[str, Any], **request: str
) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        source = folder / "source"
        source.mkdir()
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        safetensors.numpy.save_file(arrays, source / "model.safetensors")
        (source / "config.json").write_text(json.dumps(hf_config))
        shutil.copytree(TOKENIZER, folder / "tokenizer")
        paths = {name: folder / value for name, value in request.items()}
        return _convert(folder, Request(source, **paths))

    return run


def _convert(folder: Path, request: Request) -> str:
    """Convert the tensors of a checkpoint, as `convert from-torch` does."""
    assembly = assemble(request)
    leaves = state_shapes(abstract_model(assembly.config)[1])
    out = folder / "out"
    out.mkdir()
    import_tensors(table_of(assembly.config), assembly.tensors, leaves, TensorWriter(out))
    return f"accepted: {type(assembly.config).__name__}"


def _only_names(*names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (2, 2))


def _deepspeed(folder: Path) -> str:
    step = folder / "global_step500"
    step.mkdir()
    (step / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"")
    (folder / "zero_to_fp32.py").write_bytes(b"")
    return open_and_assemble(folder)


# ---------------------------------------------------------------------- model folders


def _allocation_fails(error_number: int) -> Callable[[Path], str]:
    """Simulate an error when the files are allocated."""

    def run(folder: Path) -> str:
        failure = OSError(error_number, os.strerror(error_number))
        with (
            mock.patch("os.posix_fallocate", side_effect=failure),
            atomic_folder(folder / "model", 0) as partial,
            TensorWriter(partial).open({"a": TensorInfo(BFLOAT16, (4,))}),
        ):
            pass
        return "written"

    return run


def _small_disk(folder: Path) -> str:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**9, 10**9)
    with (
        mock.patch("shutil.disk_usage", return_value=usage),
        atomic_folder(folder / "model", 16_700_000_000),
    ):
        return "written"


def _forbidden(folder: Path) -> str:
    failure = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with mock.patch("pathlib.Path.mkdir", side_effect=failure), atomic_folder(folder / "model", 0):
        return "written"


def _killed(folder: Path) -> str:
    (folder / ".model.partial").mkdir()
    (folder / ".model.partial" / "model.safetensors").write_bytes(valid_file()[:50])
    return str(ModelFolder(folder / "model"))


def _existing(folder: Path) -> str:
    (folder / "model").mkdir()
    with atomic_folder(folder / "model", 0):
        return "written"


def _model(config: object) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        (folder / "config.json").write_text(
            config if isinstance(config, str) else json.dumps(config)
        )
        return str(ModelFolder(folder).config)

    return run


CASES: tuple[Case, ...] = (
    Case(
        _CHECKPOINTS,
        "a folder of another architecture",
        _checkpoint(_only_names("layer1.0.conv1.weight", "fc.bias"), {}),
        "WeightsError: source: not a checkpoint of GLaMM, LLaMA, CLIP, SAM, peft or GPT4RoI; it "
        "contains fc.bias, layer1.0.conv1.weight ...",
    ),
    Case(
        _CHECKPOINTS,
        "a decoder of another family, with biases",
        _checkpoint(_llama(), _LLAMA | {"model_type": "qwen2", "attention_bias": True}),
        "WeightsError: source/config.json describes another architecture than LLaMA: model_type = "
        "'qwen2', not 'llama' or 'llava' or 'llava_llama' or 'mistral'; attention_bias = True, not "
        "False",
    ),
    Case(
        _CHECKPOINTS,
        "rotary embeddings of an unsupported kind",
        _checkpoint(
            _llama(), _LLAMA | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}
        ),
        "WeightsError: source/config.json: rope_parameters describes another architecture than "
        "LLaMA: rope_type = 'yarn'; default, linear and llama3 are supported",
    ),
    Case(
        _CHECKPOINTS,
        "two contradictory bases of the rotary embeddings",
        _checkpoint(_llama(), _LLAMA | {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}),
        "WeightsError: source/config.json: contradictory rope_theta = 500000.0, "
        "rope_parameters.rope_theta = 10000.0",
    ),
    Case(
        _CHECKPOINTS,
        "quantized weights",
        _checkpoint(_llama(), _LLAMA | {"quantization_config": {"quant_method": "gptq"}}),
        "WeightsError: source/config.json: quantization_config: weights that are quantized (gptq) "
        "are not supported; dequantize the model and save it in float16, bfloat16 or float32",
    ),
    Case(
        _CHECKPOINTS,
        "a number of heads that is a text",
        _checkpoint(_llama(), _LLAMA | {"num_attention_heads": "two"}),
        "JSONError: source/config.json: num_attention_heads = 'two' is not a whole number",
    ),
    Case(
        _CHECKPOINTS,
        "tensors missing, unknown and misshapen",
        _checkpoint(
            _llama(**{"lm_head.weight": None, "model.unexpected": (3,), "model.norm.weight": (3,)}),
            _LLAMA,
        ),
        "WeightsError: problems with the weights (3):\nmissing tensor lm_head.weight\nunknown "
        "tensor model.unexpected\nmodel.norm.weight: shape (3,), but the model expects (8,)",
    ),
    Case(
        _CHECKPOINTS,
        "rotary frequencies of another base",
        _checkpoint(_llama(**{"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}), _LLAMA),
        "WeightsError: problems with the weights (1):\n"
        "model.layers.0.self_attn.rotary_emb.inv_freq: differs from what the configuration gives "
        "(rotary frequencies theta^(-2i/head_dim))",
    ),
    Case(
        _CHECKPOINTS,
        "a folder without weights",
        open_and_assemble,
        "TensorFileError: the folder: contains no weights (model.safetensors, "
        "model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json)",
    ),
    Case(
        _CHECKPOINTS,
        "shards of DeepSpeed",
        _deepspeed,
        "TensorFileError: the folder: a checkpoint of DeepSpeed, divided among its ranks; merge it "
        "with: cd the folder && python zero_to_fp32.py . merged -t global_step500; then convert "
        "merged",
    ),
    Case(
        _CHECKPOINTS,
        "a GLaMM without its CLIP",
        _checkpoint(_only_names("model.grounding_encoder.x"), {}, tokenizer="tokenizer"),
        "WeightsError: source: contains no CLIP, since the original does not save it; pass "
        "CLIP's folder with --clip",
    ),
    Case(
        _CHECKPOINTS,
        "a config.json that is not valid JSON",
        lambda f: (
            (f / "model.safetensors").write_bytes(valid_file()),
            (f / "config.json").write_text("{"),
            open_and_assemble(f),
        )[2],
        "JSONError: config.json: not valid JSON: Expecting property name enclosed in double quotes",
    ),
    Case(
        _FOLDERS,
        "a disk too small",
        _small_disk,
        "FolderError: model: 16.7 GB are needed, 1.0 GB are free there",
    ),
    Case(
        _FOLDERS,
        "a disk that fills up",
        _allocation_fails(errno.ENOSPC),
        "FolderError: model: cannot be written: No space left on device",
    ),
    Case(
        _FOLDERS,
        "no permission to write",
        _forbidden,
        "FolderError: model: cannot be written: Permission denied",
    ),
    Case(
        _FOLDERS,
        "the name exists",
        _existing,
        "FolderError: model: exists already; remove it or choose another name",
    ),
    Case(_FOLDERS, "a conversion that was killed", _killed, "FolderError: model: no such folder"),
    Case(
        _FOLDERS,
        "a folder of the original",
        _model({"model_type": "llava"}),
        "ConfigError: the folder: not a model folder of GLaMM-JAX; to convert a PyTorch "
        "checkpoint: glamm-jax convert from-torch the folder --clip CLIP_FOLDER --out MODEL",
    ),
    Case(
        _FOLDERS,
        "a damaged config.json",
        _model("{"),
        "ConfigError: config.json: not valid JSON: Expecting property name enclosed in double "
        "quotes",
    ),
    Case(
        _FOLDERS,
        "a misspelt field",
        _model({"format": "glamm-jax", "version": 1, "kind": "llama", "config": {"num_layer": 2}}),
        "ConfigError: config.json: LlamaConfig.num_layer: no such field; did you mean "
        "'num_layers'?",
    ),
    Case(
        _FOLDERS,
        "a later version",
        _model({"format": "glamm-jax", "version": 9, "kind": "glamm", "config": {}}),
        "ConfigError: config.json: version 9, kind 'glamm'; this release reads version 1 of "
        "glamm, clip, llama, sam",
    ),
)

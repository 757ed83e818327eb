"""Diagnosis of folders and files that are no checkpoint: what they are and how to convert them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from glamm_jax.weights.safetensors import TensorFileError, TensorInfo

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_LFS = b"version https://git-lfs"
# End of a file's name -> what it is and what to do. The first match counts.
_FILES: tuple[tuple[str, str], ...] = (
    ("_optim_states.pt", "the optimizer states of a rank of DeepSpeed; pass the folder"),
    ("_model_states.pt", "the state of a rank of DeepSpeed; pass the folder"),
    (".distcp", "a shard of torch.distributed.checkpoint; pass the folder"),
    (".gguf", "a file of llama.cpp; get the checkpoint in Hugging Face's format"),
    (".onnx", "an ONNX graph; get the PyTorch checkpoint"),
    (".h5", "a file of TensorFlow; get the PyTorch checkpoint, or load it with from_tf=True"),
    (".msgpack", "a file of Flax; get the PyTorch checkpoint, or load it with from_flax=True"),
    (".index.json", "an index; pass the folder"),
    (".json", "not weights; pass the folder"),
)


def diagnose_file(path: Path) -> None:
    """Reject a file that is not a complete checkpoint.

    Raises:
        TensorFileError: it is a part of one, or of a format that is not read.
    """
    for end, explanation in _FILES:
        if path.name.endswith(end):
            raise TensorFileError(f"{path}: {explanation}")
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS)) == _LFS
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if is_pointer:
        raise TensorFileError(
            f"{path}: a pointer of Git LFS instead of the file; run git lfs pull in its repository"
        )


def diagnose_shard(path: Path) -> None:
    """Reject a file that is one of several shards.

    Raises:
        TensorFileError: it is.
    """
    match = _SHARD.fullmatch(path.name)
    if match is not None and int(match[3]) > 1:
        raise TensorFileError(f"{path}: one of {int(match[3])} shards; pass the folder")


def diagnose_empty_tensors(path: Path, infos: Mapping[str, TensorInfo]) -> None:
    """Reject a checkpoint whose parameters have no elements.

    Raises:
        TensorFileError: it was saved by a ZeRO-3 training that did not gather the parameters.
    """
    empty = [name for name, info in infos.items() if 0 in info.shape]
    if empty and len(empty) > len(infos) // 2:
        raise TensorFileError(
            f"{path}: {len(empty)} of {len(infos)} tensors are empty ({empty[0]}, ...), as ZeRO-3 "
            "saves them without gathering; convert the DeepSpeed checkpoint of the same training "
            "with zero_to_fp32.py"
        )


def diagnose_folder(folder: Path) -> None:
    """Reject a folder that contains no file of weights under a name that is read.

    Raises:
        TensorFileError: the message says what the folder is; not raised for an unknown one.
    """
    names = sorted(path.name for path in folder.iterdir())
    steps = [name for name in names if re.fullmatch(r"global_step\d+", name)]
    is_step = any(re.search(r"zero_pp_rank_|mp_rank_\d+_model_states", name) for name in names)
    if is_step or steps or "latest" in names:
        raise TensorFileError(_deepspeed(folder, steps, is_step))
    if any(name.endswith(".distcp") for name in names):
        raise TensorFileError(
            f"{folder}: shards of torch.distributed.checkpoint (FSDP); convert them with: python "
            f"-m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} pytorch_model.bin"
        )
    if any(re.fullmatch(r"consolidated\.\d+\.pth", name) for name in names):
        raise TensorFileError(
            f"{folder}: a checkpoint in Meta's format; convert it with transformers' "
            "convert_llama_weights_to_hf.py"
        )
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if shards:
        first = shards[0]
        raise TensorFileError(
            f"{folder}: contains {len(shards)} of {int(first[3])} shards ({first[0]}, ...), but "
            f"not their index {first[1]}.{first[4]}.index.json; copy or download it"
        )
    weights = [n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    weights = [name for name in weights if not name.startswith(("training_args", "optimizer"))]
    if weights:
        raise TensorFileError(
            f"{folder}: no weights under a standard name; pass the file itself: "
            + ", ".join(str(folder / name) for name in weights)
        )
    for end, explanation in _FILES[3:7]:
        if found := [name for name in names if name.endswith(end)]:
            raise TensorFileError(f"{folder / found[0]}: {explanation}")
    checkpoints = [n for n in names if re.fullmatch(r"checkpoint-\d+|pytorch_model_fsdp_\d+", n)]
    if checkpoints:
        last = max(checkpoints, key=lambda name: int(re.split(r"[-_]", name)[-1]))
        raise TensorFileError(
            f"{folder}: contains no weights, but the checkpoints of a training; pass "
            f"{folder / last}"
        )


def _deepspeed(folder: Path, steps: list[str], is_step: bool) -> str:
    """Return the message about a checkpoint of DeepSpeed: the folder of a run, or of one step."""
    root, tag = (folder.parent, folder.name) if is_step and not steps else (folder, None)
    latest = root / "latest"
    if tag is None and steps:
        text = latest.read_text(errors="replace").strip() if latest.is_file() else ""
        tag = None if text in steps else max(steps, key=lambda name: int(name[11:]))
    if tag is None and not steps:
        return f"{folder}: has the file 'latest' of DeepSpeed, but no global_step folder; copy it"
    has_script = (root / "zero_to_fp32.py").is_file()
    script = "zero_to_fp32.py" if has_script else "-m deepspeed.utils.zero_to_fp32"
    option = f" -t {tag}" if tag is not None else ""
    return (
        f"{folder}: a checkpoint of DeepSpeed, divided among its ranks; merge it with: cd {root} "
        f"&& python {script} . merged{option}; then convert {root / 'merged'}"
    )

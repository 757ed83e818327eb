"""Which files of a folder are read, which are ignored by name, and what other folders are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glamm_jax.errors import GLaMMError
from glamm_jax.weights.checkpoint_files import open_checkpoint
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter, read_folder

NAMES = ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight")


def save(path: Path, value: float, names: tuple[str, ...] = NAMES) -> None:
    """Write tensors that contain a number, in the format that the file's name says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix != ".safetensors":
        torch.save({name: torch.full((2,), value) for name in names}, path)
        return
    info = TensorInfo(np.dtype(np.float32), (2,))
    with TensorWriter(path.parent, stem=path.stem).open(dict.fromkeys(names, info)) as writer:
        for name in names:
            writer.write(name, np.full(2, value, np.float32))


def save_index(path: Path, files: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def save_shards(folder: Path, value: float, end: str) -> None:
    stem = "model" if end == "safetensors" else "pytorch_model"
    files = {name: f"{stem}-0000{i}-of-00002.{end}" for i, name in enumerate(NAMES, 1)}
    for name, file in files.items():
        save(folder / file, value, (name,))
    save_index(folder / f"{stem}.{end}.index.json", files)


def test_precedence_is_that_of_transformers_and_ignored_files_are_named(tmp_path):
    save_shards(tmp_path, 4, "bin")
    assert open_checkpoint(tmp_path).tensors.read(NAMES[0])[0] == 4
    save(tmp_path / "pytorch_model.bin", 3)
    save(tmp_path / "mm_projector.bin", 9)
    (tmp_path / "training_args.bin").write_bytes(b"")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.read(NAMES[0])[0] == 3
    assert checkpoint.warnings == (
        f"{tmp_path}: read from pytorch_model.bin; ignored: mm_projector.bin, "
        "pytorch_model-00001-of-00002.bin, pytorch_model-00002-of-00002.bin, "
        "pytorch_model.bin.index.json",
    )
    save_shards(tmp_path, 2, "safetensors")
    assert open_checkpoint(tmp_path).tensors.read(NAMES[0])[0] == 2
    assert "ignored: mm_projector.bin, pytorch_model-" in open_checkpoint(tmp_path).warnings[0]
    save(tmp_path / "model.safetensors", 1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.read(NAMES[0])[0] == 1
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        assert name in checkpoint.warnings[0]
    assert read_folder(tmp_path)[NAMES[0]].path.name == "model.safetensors"  # model folders, too


def test_a_shard_that_the_index_does_not_mention_is_ignored_by_name(tmp_path):
    save_shards(tmp_path, 1, "safetensors")
    save(tmp_path / "model-00003-of-00003.safetensors", 2)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.read(NAMES[1])[0] == 1
    assert "ignored: model-00003-of-00003.safetensors" in checkpoint.warnings[0]


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_an_index_that_contradicts_its_files_is_explained(tmp_path, end):
    save_shards(tmp_path, 1, end)
    index = next(tmp_path.glob("*.index.json"))
    files = json.loads(index.read_text())["weight_map"]
    shard = tmp_path / files[NAMES[0]]
    save_index(index, {**files, "lm_head.weight": files[NAMES[0]]})
    with pytest.raises(GLaMMError, match=rf"{shard.name} does not contain lm_head.weight"):
        open_checkpoint(tmp_path)
    save_index(index, {NAMES[0]: files[NAMES[0]], NAMES[1]: files[NAMES[0]]})
    with pytest.raises(GLaMMError, match=r"does not contain model\.norm\.weight"):
        open_checkpoint(tmp_path)
    save_index(index, files)
    shard.unlink()
    save(shard, 1)  # model.norm.weight, too
    with pytest.raises(
        GLaMMError, match=r"contains model\.norm\.weight, which the index assigns to"
    ):
        open_checkpoint(tmp_path)
    shard.unlink()
    (tmp_path / files[NAMES[1]]).unlink()
    with pytest.raises(GLaMMError, match=rf"{shard.name}, .*which are not in the folder"):
        open_checkpoint(tmp_path)


def test_two_versions_of_a_tensor_are_named(tmp_path):
    save(tmp_path / "model.safetensors", 1, (*NAMES, "model._orig_mod.norm.weight"))
    with pytest.raises(GLaMMError, match=r"two versions of model\.norm\.weight"):
        open_checkpoint(tmp_path)


def test_an_adapter_beside_a_model_is_read_where_an_adapter_is_expected(tmp_path):
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save(tmp_path / "adapter_model.safetensors", 1, (lora,))
    save(tmp_path / "model.safetensors", 2)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    save(tmp_path / "non_lora_trainables.bin", 3, ("base_model.model.lm_head.weight",))
    adapter = open_checkpoint(tmp_path, is_adapter=True)
    assert (adapter.family, adapter.hf_config) == ("adapter", {"r": 4})
    assert set(adapter.tensors.infos) == {lora, "base_model.model.lm_head.weight"}
    assert "ignored: model.safetensors" in adapter.warnings[0]
    model = open_checkpoint(tmp_path)
    assert (model.family, model.hf_config) == ("llama", {"model_type": "llava"})
    assert "adapter_model.safetensors" in model.warnings[0]


def test_the_folder_that_zero_to_fp32_writes_is_read(tmp_path):
    save(tmp_path / "pytorch_model.bin" / "pytorch_model.bin", 1)
    assert open_checkpoint(tmp_path).tensors.read(NAMES[0])[0] == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["latest", "global_step9/x_zero_pp_rank_0_optim_states.pt", "zero_to_fp32.py"],
            r"DeepSpeed.*cd {0} && python zero_to_fp32.py \. merged -t global_step9;",
        ),
        (
            ["global_step9/mp_rank_00_model_states.pt", "global_step10/x"],
            r"python -m deepspeed.utils.zero_to_fp32 \. merged -t global_step10;",
        ),
        (["latest"], "no global_step folder"),
        (["mp_rank_00_model_states.pt"], r"DeepSpeed.*-t {1};"),
        (["__0_0.distcp", ".metadata"], "dcp_to_torch"),
        (["consolidated.00.pth", "params.json"], "Meta's format"),
        (["model-00001-of-00003.safetensors"], "1 of 3 shards.*model.safetensors.index.json"),
        (["model.fp16.safetensors"], "pass the file itself: .*fp16"),
        (["tf_model.h5"], "file of TensorFlow"),
        (["checkpoint-20/x", "checkpoint-100/x"], "pass .*checkpoint-100"),
        (["x.txt"], "contains no weights"),
    ],
)
def test_other_folders_are_diagnosed_in_one_line(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(GLaMMError, match=message.format(tmp_path, tmp_path.name)) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x_model_states.pt", b"", "DeepSpeed; pass the folder"),
        ("model-00001-of-00003.safetensors", b"", "one of 3 shards; pass the folder"),
        ("model.gguf", b"", "llama.cpp"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("model.safetensors.index.json", b"{}", "an index; pass the folder"),
    ],
)
def test_other_files_are_diagnosed(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GLaMMError, match=message):
        open_checkpoint(tmp_path / name)


def test_parameters_that_zero_3_did_not_gather(tmp_path):
    torch.save({name: torch.zeros(0) for name in NAMES}, tmp_path / "pytorch_model.bin")
    with pytest.raises(GLaMMError, match=r"2 of 2 tensors are empty.*zero_to_fp32"):
        open_checkpoint(tmp_path)

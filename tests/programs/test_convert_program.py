"""`glamm-jax convert from-torch | to-torch | merge`, on tiny checkpoints of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glamm_jax.cli.convert import main
from glamm_jax.config import LlamaConfig, LoRAConfig
from glamm_jax.models.abstract import abstract_model
from glamm_jax.testing.golden_checkpoints import GoldenSource, write_checkpoint
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, llama_hf_config
from glamm_jax.weights.lora import adapter_name
from glamm_jax.weights.rules import tensor_shapes
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_names import SPI_PREFIX
from glamm_jax.weights.tensor_sources import SafetensorsSource
from tests.text.test_tokenizer_json import byte_level
from tests.weights.checkpoints import (
    ADAPTED,
    CONFIG,
    TOKENIZER,
    all_shapes,
    clip_source,
    glamm_source,
    read_all,
    write_clip,
    write_glamm,
)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def tensors(folder: Path) -> dict[str, np.ndarray]:
    source = SafetensorsSource(folder)
    return {name: source.read(name) for name in source.infos}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        assert actual[name].tobytes() == array.tobytes(), name


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def save_pickled(path: Path, arrays: dict[str, np.ndarray], **options: object) -> None:
    torch.save({name: as_torch(x) for name, x in arrays.items()}, path, **options)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """`glamm`, `clip` and the `model` made of them."""
    root = tmp_path_factory.mktemp("checkpoints")
    write_glamm(root / "glamm")
    write_clip(root / "clip")
    assert run("from-torch", root / "glamm", "--clip", root / "clip", "--out", root / "model") == 0
    return root


def test_a_glamm_folder_and_its_clip_return_byte_for_byte(checkpoints, tmp_path):
    assert run("to-torch", checkpoints / "model", "--out", tmp_path / "glamm") == 0
    assert run("to-torch", checkpoints / "model", "--part", "clip", "--out", tmp_path / "clip") == 0
    for part in ("glamm", "clip"):
        assert_same(tensors(tmp_path / part), tensors(checkpoints / part))
        first, back = (
            json.loads((folder / part / "config.json").read_text())
            for folder in (checkpoints, tmp_path)
        )
        assert back == first
    assert load_tokenizer(tmp_path / "glamm", CONFIG.tokens).size == CONFIG.llama.vocab_size
    added = json.loads((tmp_path / "glamm" / "added_tokens.json").read_text())
    assert added["[SEG]"] == CONFIG.tokens.seg


def test_the_disposition_of_every_tensor_is_printed(checkpoints, tmp_path, capsys):
    arguments = ("from-torch", checkpoints / "glamm", "--clip", checkpoints / "clip")
    assert run(*arguments, "--out", tmp_path / "model") == 0
    output = capsys.readouterr().out
    for line in (
        "2 recomputed: rotary frequencies theta",
        "1 recomputed: position ids 0",
        "16 carried: above the last",
    ):
        assert line in output


def test_the_model_holds_the_golden_numbers(checkpoints):
    folder = ModelFolder(checkpoints / "model")
    assert folder.config == CONFIG
    tensor = glamm_source().read("model.layers.1.mlp.up_proj.weight").astype(np.float32)
    assert (folder.read("llama.layers.up_proj.kernel", 1) == tensor.T).all()


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_shards_with_an_index_give_the_same_model(checkpoints, tmp_path, old_format):
    arrays = tensors(checkpoints / "glamm")
    source = tmp_path / "glamm"
    source.mkdir()
    names = sorted(arrays)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "b.bin": names[1::2]}
    for file, part in shards.items():
        options = {"_use_new_zipfile_serialization": not old_format}
        save_pickled(source / file, {name: arrays[name] for name in part}, **options)
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.model", "special_tokens_map.json"):
        (source / name).write_bytes((checkpoints / "glamm" / name).read_bytes())
    arguments = ("from-torch", source, "--clip", checkpoints / "clip")
    assert run(*arguments, "--out", tmp_path / "model") == 0
    assert_same(tensors(tmp_path / "model"), tensors(checkpoints / "model"))


# ------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def training(checkpoints, tmp_path_factory) -> Path:
    """A training checkpoint, CLIP inside: one file, injected LoRA of rank 4 and alpha 16."""
    path = tmp_path_factory.mktemp("training") / "pytorch_model.bin"
    save_pickled(path, read_all(GoldenSource(all_shapes(ADAPTED), table_of(ADAPTED))))
    return path


def test_a_training_checkpoint_brings_its_adapters_and_its_clip(checkpoints, training, tmp_path):
    # The folder that the training started from has the tokenizer and the config.json.
    arguments = ("from-torch", training, "--tokenizer", checkpoints / "glamm")
    assert run(*arguments, "--out", tmp_path / "model") == 0
    folder = ModelFolder(tmp_path / "model")
    assert folder.config == ADAPTED
    assert run("to-torch", folder.path, "--lora", "injected", "--out", tmp_path / "back") == 0
    arrays = read_all(GoldenSource(all_shapes(ADAPTED), table_of(ADAPTED)))
    saved = {n: x for n, x in arrays.items() if not n.startswith(CLIP_PREFIX)}
    assert_same(tensors(tmp_path / "back"), saved)


def test_an_adapter_joins_its_base_and_leaves_again(checkpoints, tmp_path):
    lora = {
        adapter_name(name): array
        for name, array in read_all(glamm_source(ADAPTED)).items()
        if ".lora_" in name
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_pickled(adapter / "adapter_model.bin", lora)
    hf_config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
    (adapter / "adapter_config.json").write_text(json.dumps(hf_config))
    base = ("from-torch", checkpoints / "glamm", "--clip", checkpoints / "clip")
    assert run(*base, "--adapter", adapter, "--out", tmp_path / "model") == 0
    config = ModelFolder(tmp_path / "model").config
    assert config.lora == LoRAConfig(rank=4, alpha=8.0, dropout=0.1)
    assert run("to-torch", tmp_path / "model", "--part", "adapter", "--out", tmp_path / "back") == 0
    source = SafetensorsSource(tmp_path / "back" / "adapter_model.safetensors")
    assert_same({name: source.read(name) for name in source.infos}, lora)
    hf_config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert hf_config["lora_alpha"] == 8
    assert "model.layers.0.self_attn.q_proj" in hf_config["target_modules"]
    assert run("to-torch", tmp_path / "model", "--lora", "none", "--out", tmp_path / "base") == 0
    assert_same(tensors(tmp_path / "base"), tensors(checkpoints / "glamm"))


def test_merging_adds_the_product_and_both_ways_agree(training, tmp_path):
    arguments = ("from-torch", training, "--tokenizer", TOKENIZER)
    assert run(*arguments, "--out", tmp_path / "model") == 0
    assert run("merge", tmp_path / "model", "--out", tmp_path / "merged") == 0
    merged = ModelFolder(tmp_path / "merged")
    assert merged.config.lora is None
    source = GoldenSource(all_shapes(ADAPTED), table_of(ADAPTED))
    name = "model.layers.1.self_attn.v_proj"
    w, a, b = (
        source.read(f"{name}.{end}weight") for end in ("", "lora_A.default.", "lora_B.default.")
    )
    np.testing.assert_allclose(
        merged.read("llama.layers.v_proj.kernel", 1), (w + 4.0 * (b @ a)).T, rtol=1e-5, atol=1e-5
    )
    assert run("to-torch", merged.path, "--out", tmp_path / "a") == 0
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "b") == 0
    assert_same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


# ------------------------------------------------------------------------------ parts


def test_sam_alone_returns(tmp_path):
    table = table_of(CONFIG.sam)
    shapes = {
        name.removeprefix(SAM_PREFIX): shape
        for name, shape in all_shapes(CONFIG).items()
        if name.startswith(SAM_PREFIX)
    }
    arrays = read_all(GoldenSource(shapes, table))
    save_pickled(tmp_path / "sam.pth", arrays)
    assert run("from-torch", tmp_path / "sam.pth", "--out", tmp_path / "sam") == 0
    config = ModelFolder(tmp_path / "sam").config
    assert config == replace(CONFIG.sam, decoder_heads=8)  # not in any shape
    assert run("to-torch", tmp_path / "sam", "--out", tmp_path / "back") == 0
    assert_same(tensors(tmp_path / "back"), arrays)


def test_clip_alone_drops_its_text_encoder(checkpoints, tmp_path, capsys):
    arrays = tensors(checkpoints / "clip")
    text = {"text_model.final_layer_norm.bias": np.zeros(3, np.float32)}
    source = tmp_path / "clip"
    source.mkdir()
    save_pickled(source / "pytorch_model.bin", arrays | text)
    hf_config = {"vision_config": clip_hf_config(CONFIG.clip), "text_config": {}}
    (source / "config.json").write_text(json.dumps(hf_config))
    assert run("from-torch", source, "--out", tmp_path / "model") == 0
    assert "1 dropped: text encoder of CLIP" in capsys.readouterr().out
    config = ModelFolder(tmp_path / "model").config
    assert replace(config, region_layers=CONFIG.clip.region_layers) == CONFIG.clip
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    assert_same(tensors(tmp_path / "back"), arrays)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A LLaMA of 800 rows, a SAM and a GPT4RoI, from which a pretraining starts."""
    root = tmp_path_factory.mktemp("parts")
    small = replace(CONFIG.llama, vocab_size=800)
    shapes = all_shapes(CONFIG)
    llama = {
        n: (800, *s[1:]) if s[:1] == (807,) else s
        for n, s in shapes.items()
        if n.startswith(("model.layers.", "lm_head", "model.norm", "model.embed"))
    }
    write_checkpoint(
        GoldenSource(llama, table_of(small)),
        root / "llama",
        llama_hf_config(small, "float32"),
        tokenizer=TOKENIZER,
    )
    sam = {n.removeprefix(SAM_PREFIX): s for n, s in shapes.items() if n.startswith(SAM_PREFIX)}
    save_pickled(root / "sam.pth", read_all(GoldenSource(sam, table_of(CONFIG.sam))))
    region = {
        SPI_PREFIX + n.removeprefix(REGION_PREFIX): s
        for n, s in shapes.items()
        if n.startswith(REGION_PREFIX)
    }
    region |= {"model.embed_tokens.weight": (10, 64), "model.mm_projector.weight": (64, 64)}
    (root / "gpt4roi").mkdir()
    roi = read_all(GoldenSource(region, table_of(CONFIG)))
    save_pickled(root / "gpt4roi" / "pytorch_model.bin", roi)
    write_clip(root / "clip")
    return root


def test_parts_make_a_glamm_to_start_from(parts, tmp_path, capsys):
    arguments = ["from-torch", parts / "llama", "--clip", parts / "clip"]
    arguments += ["--sam", parts / "sam.pth", "--region", parts / "gpt4roi", "--seed", 3]
    assert run(*arguments, "--out", tmp_path / "a") == 0
    assert "2 dropped: everything of GPT4RoI but the region encoder" in capsys.readouterr().out
    assert run(*arguments, "--out", tmp_path / "b") == 0
    assert_same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    folder = ModelFolder(tmp_path / "a")
    assert folder.config.llama.vocab_size == 807
    assert folder.config.tokens == CONFIG.tokens
    rows = folder.read("llama.embed_tokens.table")
    source_rows = SafetensorsSource(parts / "llama").read("model.embed_tokens.weight")
    assert (rows[:800] == source_rows).all()
    assert 0.01 < rows[800:].std() < 0.03
    scale = folder.read("region_encoder.fusion.norm.scale", 0)
    assert not (scale == 1).all()  # GPT4RoI's, not initialized
    assert (folder.read("text_projection.layers.0.bias") == 0).all()  # initialized


def test_a_start_without_regions_initializes_them_from_the_seed(parts, tmp_path):
    arguments = [
        "from-torch",
        parts / "llama",
        "--clip",
        parts / "clip",
        "--sam",
        parts / "sam.pth",
    ]
    for seed in (1, 2):
        assert run(*arguments, "--seed", seed, "--out", tmp_path / f"{seed}") == 0
    a, b = (ModelFolder(tmp_path / f"{seed}") for seed in (1, 2))
    assert (a.read("region_encoder.fusion.norm.scale") == 1).all()
    kernel = "region_encoder.input_proj.kernel"
    assert (a.read(kernel) != b.read(kernel)).any()
    kernel = "clip.patch_embedding.kernel"
    assert (a.read(kernel) == b.read(kernel)).all()


def test_a_newer_llama_with_a_byte_level_tokenizer_becomes_a_glamm(parts, tmp_path):
    """Grouped queries, tied embeddings, tokenizer.json; and back under its own names."""
    tokenizer = load_tokenizer(byte_level(tmp_path / "tokenizer"))
    size = tokenizer.size - 7
    llama = replace(
        CONFIG.llama, vocab_size=size, num_kv_heads=2, tie_embeddings=True, rope_theta=1e5
    )
    write_checkpoint(
        GoldenSource(tensor_shapes(table_of(llama), llama_shapes(llama)), table_of(llama)),
        tmp_path / "llama",
        llama_hf_config(llama, "float32"),
        tokenizer=tmp_path / "tokenizer",
    )
    arguments = ["from-torch", tmp_path / "llama", "--clip", parts / "clip"]
    arguments += ["--sam", parts / "sam.pth", "--out", tmp_path / "model"]
    assert run(*arguments) == 0
    folder = ModelFolder(tmp_path / "model")
    assert folder.config.llama == replace(llama, vocab_size=size + 7, remat="full")
    assert folder.config.tokens == tokenizer.tokens
    assert "llama.lm_head.kernel" not in folder.leaves
    assert folder.leaves["llama.layers.k_proj.kernel"].shape == (2, 64, 32)
    assert load_tokenizer(tmp_path / "model", folder.config.tokens).size == size + 7
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    back = tensors(tmp_path / "back")
    for name, array in tensors(tmp_path / "llama").items():
        assert (back[name][: len(array)] == array).all(), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["num_key_value_heads"], config["tie_word_embeddings"]) == (2, True)
    assert load_tokenizer(tmp_path / "back").tokens == tokenizer.tokens


def llama_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    return state_shapes(abstract_model(config)[1])


# ------------------------------------------------------------------------------ refusals


def refused(capsys, *arguments: object) -> str:
    assert run(*arguments) == 2
    return capsys.readouterr().err


def test_the_error_of_a_glamm_without_clip_names_the_option(checkpoints, tmp_path, capsys):
    message = refused(capsys, "from-torch", checkpoints / "glamm", "--out", tmp_path / "m")
    assert "pass CLIP's folder with --clip" in message
    assert not (tmp_path / "m").exists()


def test_a_part_in_the_wrong_place_is_named(checkpoints, tmp_path, capsys):
    arguments = ("from-torch", checkpoints / "glamm", "--clip", checkpoints / "glamm")
    assert "not clip" in refused(capsys, *arguments, "--out", tmp_path / "m")
    arguments = ("from-torch", checkpoints / "clip", "--adapter", checkpoints / "clip")
    assert "--adapter can only be combined with a GLaMM" in refused(
        capsys, *arguments, "--out", tmp_path / "m"
    )


def test_merging_needs_an_adapter(checkpoints, tmp_path, capsys):
    message = refused(capsys, "merge", checkpoints / "model", "--out", tmp_path / "m")
    assert "has no LoRA" in message


def test_every_tensor_that_is_wrong_is_listed_at_once(checkpoints, tmp_path, capsys):
    arrays = read_all(glamm_source())
    del arrays["lm_head.weight"]
    arrays["model.unexpected"] = np.zeros(3, np.float32)
    arrays["model.norm.weight"] = np.zeros(3, np.float32)
    source = tmp_path / "pytorch_model.bin"
    save_pickled(source, arrays)
    arguments = ("from-torch", source, "--tokenizer", TOKENIZER, "--clip", checkpoints / "clip")
    message = refused(capsys, *arguments, "--out", tmp_path / "m")
    for part in (
        "weights (3)",
        "missing tensor lm_head.weight",
        "model.unexpected",
        "model.norm.weight",
    ):
        assert part in message


def test_clip_source_is_what_the_original_holds(checkpoints):
    assert tensors(checkpoints / "clip").keys() == clip_source().infos.keys()

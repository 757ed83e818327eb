"""`glamm-jax convert from-torch | to-torch | merge`, on tiny checkpoints of every kind."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from glamm_jax.cli.convert import main
from glamm_jax.cli.convert.assemble import Request, assemble, leaf_shapes
from glamm_jax.config import GLaMMConfig, LlamaConfig, LoRAConfig, tiny
from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.testing.golden_checkpoints import GoldenSource, write_checkpoint
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import ModelFolder, finish_folder
from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.hf_config import clip_hf_config, llama_hf_config
from glamm_jax.weights.lora import adapter_name
from glamm_jax.weights.rules import WeightsError, tensor_shapes
from glamm_jax.weights.safetensors import TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_names import SPI_PREFIX
from glamm_jax.weights.tensor_sources import MemorySource, SafetensorsSource
from glamm_jax.weights.transfer import copy_leaves, default_stored_dtypes
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


# ------------------------------------------------------------------------------ as trainings save


def save_adapter(folder: Path, arrays: dict[str, np.ndarray], **hf_config: object) -> Path:
    """Write a peft adapter of rank 4 on q_proj and v_proj."""
    folder.mkdir()
    save_pickled(folder / "adapter_model.bin", arrays)
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(plain | hf_config))
    return folder


def adapter_arrays() -> dict[str, np.ndarray]:
    """Return the adapters of ADAPTED under peft's names."""
    source = glamm_source(ADAPTED)
    return {adapter_name(n): source.read(n) for n in source.infos if ".lora_" in n}


def test_an_adapter_with_its_vocabulary_settings_and_missing_layers_returns(
    checkpoints, tmp_path, capsys
):
    lora = {n: x for n, x in adapter_arrays().items() if ".layers.1." in n}
    b = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    table = np.arange(807 * 64, dtype=np.float32).reshape(807, 64)
    saved = {
        "base_model.model.model.embed_tokens.weight": table,
        "base_model.model.lm_head.weight": -table,
    }
    forms = {
        "base_model.model.model.embed_tokens.modules_to_save.default.weight": table,
        "base_model.model.model.embed_tokens.original_module.weight": table[:800],
        "base_model.model.lm_head.modules_to_save.weight": -table,
    }
    settings = {
        "use_rslora": True,
        "lora_alpha": 6,
        "layers_to_transform": [1],
        "alpha_pattern": {"v_proj": 9},
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    adapter = save_adapter(tmp_path / "adapter", lora | forms, **settings)
    base = ("from-torch", checkpoints / "glamm", "--clip", checkpoints / "clip")
    assert run(*base, "--adapter", adapter, "--out", tmp_path / "model") == 0
    output = capsys.readouterr().out
    assert "2 dropped: replaced by modules that the adapter contains" in output
    assert "1 dropped: modules as before the training" in output
    folder = ModelFolder(tmp_path / "model")
    assert folder.config.lora is not None and folder.config.lora.scale == 3.0
    assert (folder.read("llama.embed_tokens.table") == table).all()
    assert not folder.read("llama.layers.v_proj.lora.b", 0).any()
    expected = 1.5 * lora[b].astype(np.float32).T
    np.testing.assert_allclose(folder.read("llama.layers.v_proj.lora.b", 1), expected)
    assert run("to-torch", folder.path, "--part", "adapter", "--out", tmp_path / "back") == 0
    source = SafetensorsSource(tmp_path / "back" / "adapter_model.safetensors")
    assert_same({name: source.read(name) for name in source.infos}, lora | saved)
    configs = [
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (adapter, tmp_path / "back")
    ]
    assert configs[1] == configs[1] | configs[0]
    # A training checkpoint has no such settings: all its adapters get one scale.
    assert run("to-torch", folder.path, "--lora", "injected", "--out", tmp_path / "injected") == 0
    again = ("from-torch", tmp_path / "injected", "--clip", checkpoints / "clip")
    assert run(*again, "--out", tmp_path / "again") == 0
    assert ModelFolder(tmp_path / "again").config == folder.config
    assert run("merge", folder.path, "--out", tmp_path / "merged") == 0
    assert run("merge", tmp_path / "again", "--out", tmp_path / "merged2") == 0
    assert_same(tensors(tmp_path / "merged"), tensors(tmp_path / "merged2"))
    message = refused(capsys, "to-torch", folder.path, "--lora", "none", "--out", tmp_path / "x")
    assert "lm_head.weight, model.embed_tokens.weight came with the adapter" in message


def test_the_vocabulary_of_an_adapter_joins_a_llama(parts, tmp_path):
    table = np.ones((807, 64), np.float32)
    embeddings = {"base_model.model.model.embed_tokens.weight": table}
    head = {"base_model.model.lm_head.weight": table}
    adapter = save_adapter(tmp_path / "adapter", adapter_arrays() | embeddings | head)
    start = {"source": parts / "llama", "clip": parts / "clip", "sam": parts / "sam.pth"}
    assembly = assemble(Request(**start, adapter=adapter))
    assert isinstance(assembly.config, GLaMMConfig) and assembly.config.llama.vocab_size == 807
    assert all((assembly.tensors.read(name) == table).all() for name in VOCABULARY)
    assert assembly.hf_configs["llama"]["vocab_size"] == 807
    half = save_adapter(tmp_path / "half", adapter_arrays() | embeddings)
    with pytest.raises(WeightsError, match=r"lm_head\.weight has 800 rows"):
        assemble(Request(**start, adapter=half))


def test_an_adapter_whose_scale_is_unknown_is_refused(checkpoints, tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter", adapter_arrays())
    (adapter / "adapter_config.json").unlink()
    (adapter / "config.json").write_text('{"model_type": "llava"}')
    arguments = ("from-torch", checkpoints / "glamm", "--clip", checkpoints / "clip")
    arguments += ("--adapter", adapter, "--out", tmp_path / "m")
    assert "adapter_config.json: no such file" in refused(capsys, *arguments)
    (adapter / "adapter_config.json").write_text('{"use_dora": true}')
    assert "use_dora = True is not supported" in refused(capsys, *arguments)


@pytest.mark.parametrize("recipe", ["ddp", "peft"])
def test_a_wrapped_model_is_the_model(checkpoints, tmp_path, recipe, capsys):
    rename = {
        "ddp": lambda name: f"module.{name}",
        "peft": lambda name: (
            "base_model.model."
            + name.replace("q_proj.weight", "q_proj.base_layer.weight").replace(
                "lm_head.", "lm_head.modules_to_save.default."
            )
        ),
    }[recipe]
    arrays = tensors(checkpoints / "glamm")
    save_pickled(tmp_path / "pytorch_model.bin", {rename(n): x for n, x in arrays.items()})
    clip = tmp_path / "clip5"  # as transformers 5 saves it
    clip.mkdir()
    prefix = "vision_model."
    arrays = {n.removeprefix(prefix): x for n, x in tensors(checkpoints / "clip").items()}
    save_pickled(clip / "pytorch_model.bin", arrays)
    (clip / "config.json").write_bytes((checkpoints / "clip" / "config.json").read_bytes())
    (clip / "model-00001-of-00002.safetensors").write_bytes(b"old")
    arguments = ("from-torch", tmp_path / "pytorch_model.bin", "--clip", clip)
    tokenizer = ("--tokenizer", checkpoints / "glamm")
    assert run(*arguments, *tokenizer, "--out", tmp_path / "model") == 0
    warning = "from-torch: warning: {}: read from pytorch_model.bin; ignored: model-00001-of-00002"
    assert warning.format(clip) in capsys.readouterr().err
    assert_same(tensors(tmp_path / "model"), tensors(checkpoints / "model"))


# ------------------------------------------------------------------------------ padded vocabulary

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def save_padded(checkpoints: Path, folder: Path, **num_rows: int) -> dict[str, np.ndarray]:
    """Write the GLaMM with other numbers of rows."""
    folder.mkdir()
    arrays = tensors(checkpoints / "glamm")
    for name, rows in zip(VOCABULARY, num_rows.values(), strict=True):
        extra = np.full((rows - 807, 64), 0.5, arrays[name].dtype)
        arrays[name] = np.concatenate([arrays[name], extra])
    save_pickled(folder / "pytorch_model.bin", arrays)
    for path in (checkpoints / "glamm").iterdir():
        if not path.name.endswith((".safetensors", ".index.json", "config.json")):
            (folder / path.name).write_bytes(path.read_bytes())
    return arrays


def test_padding_of_the_vocabulary_returns_byte_for_byte(checkpoints, tmp_path, capsys):
    arrays = save_padded(checkpoints, tmp_path / "padded", embed=832, head=832)
    clip = ("--clip", checkpoints / "clip")
    hf_config = json.loads((checkpoints / "glamm" / "config.json").read_text())
    del hf_config["glamm_jax"], hf_config["vocab_size"]
    (tmp_path / "padded" / "config.json").write_text(json.dumps(hf_config))
    assert run("from-torch", tmp_path / "padded", *clip, "--out", tmp_path / "model") == 0
    assert "25 rows of the vocabulary are padding after 807 ids" in capsys.readouterr().out
    assert ModelFolder(tmp_path / "model").config.llama.vocab_size == 832
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    assert_same(tensors(tmp_path / "back"), arrays)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"embed": 832, "head": 807}, "has 832 rows, but lm_head.weight has 807 rows"),
        ({"embed": 833, "head": 833}, "has 807 ids, but the embeddings of .* have 833 rows"),
    ],
)
def test_other_numbers_of_rows_are_refused(checkpoints, tmp_path, capsys, rows, message):
    save_padded(checkpoints, tmp_path / "padded", **rows)
    arguments = ("from-torch", tmp_path / "padded", "--clip", checkpoints / "clip")
    assert re.search(message, refused(capsys, *arguments, "--out", tmp_path / "m"))


def test_a_padded_llama_keeps_its_rows(parts, tmp_path):
    arrays = tensors(parts / "llama")
    padded = tmp_path / "llama"
    padded.mkdir()
    for name in VOCABULARY:
        arrays[name] = np.concatenate([arrays[name], np.full((32, 64), 0.5, np.float32)])
    save_pickled(padded / "pytorch_model.bin", arrays)
    for path in (parts / "llama").iterdir():
        if path.name.startswith(("tokenizer", "special")):
            (padded / path.name).write_bytes(path.read_bytes())
    hf_config = json.loads((parts / "llama" / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(hf_config | {"vocab_size": 832}))
    arguments = ("from-torch", padded, "--clip", parts / "clip", "--sam", parts / "sam.pth")
    assert run(*arguments, "--out", tmp_path / "model") == 0
    folder = ModelFolder(tmp_path / "model")
    assert (folder.read("llama.embed_tokens.table") == arrays[VOCABULARY[0]]).all()
    assert (folder.read("llama.lm_head.kernel") == arrays[VOCABULARY[1]].T).all()


# ------------------------------------------------------------------------------ any model folder

SMALL_CLIP = replace(CONFIG.clip, num_layers=2, projector_layer=-1, region_layers=(-2, -1))
SMALL = replace(
    CONFIG,
    clip=SMALL_CLIP,
    region=replace(CONFIG.region, num_fusion_rounds=1),
    sam=replace(CONFIG.sam, num_layers=2, global_blocks=(1,), decoder_heads=2),
)
VARIANTS = {
    "few clip layers": SMALL,
    "adapters": replace(SMALL, lora=LoRAConfig(rank=3, alpha=5.0, targets=("q_proj", "up_proj"))),
    "one region layer": replace(
        SMALL, clip=replace(SMALL_CLIP, region_layers=(0, 2)), compute_dtype="bfloat16"
    ),
    "paper": replace(tiny(800, "paper"), sam=SMALL.sam),
}


def write_any_model(path: Path, config: GLaMMConfig, dtype: np.dtype) -> None:
    """Write a model folder as a training does, with random leaves."""
    noise = np.random.default_rng(0)
    leaves = MemorySource(
        {
            name: noise.standard_normal(shape).astype(dtype)
            for name, shape in leaf_shapes(config).items()
        }
    )
    source_info = {"tensors": default_stored_dtypes(table_of(config), leaves), "described": {}}
    with atomic_folder(path, 0) as folder:
        copy_leaves(leaves, TensorWriter(folder))
        finish_folder(folder, config, source_info, TOKENIZER)


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ("few clip layers", "float32"),
        ("adapters", "bfloat16"),
        *(
            pytest.param(variant, dtype, marks=pytest.mark.slow)
            for variant in VARIANTS
            for dtype in ("float32", "bfloat16")
            if (variant, dtype) not in {("few clip layers", "float32"), ("adapters", "bfloat16")}
        ),
    ],
)
def test_any_model_folder_is_exported_and_returns(tmp_path, variant, dtype):
    model = tmp_path / "model"
    write_any_model(model, VARIANTS[variant], np.dtype(jnp.dtype(dtype)))
    assert run("to-torch", model, "--lora", "injected", "--out", tmp_path / "glamm") == 0
    assert run("to-torch", model, "--part", "clip", "--out", tmp_path / "clip") == 0
    arguments = ("from-torch", tmp_path / "glamm", "--clip", tmp_path / "clip")
    assert run(*arguments, "--out", tmp_path / "back") == 0
    assert ModelFolder(tmp_path / "back").config == VARIANTS[variant]
    assert_same(tensors(tmp_path / "back"), tensors(model))


ALONE = replace(SMALL.llama, num_layers=1)


def test_a_weight_file_is_converted_with_the_config_beside_it(tmp_path, capsys):
    config = replace(ALONE, rope_theta=500.0, norm_eps=1e-3)
    write_any_model(tmp_path / "model", config, np.dtype(np.float32))
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "torch") == 0
    weights, hf_config = (
        tmp_path / "torch" / name for name in ("model.safetensors", "config.json")
    )
    assert run("from-torch", weights, "--out", tmp_path / "back") == 0
    assert replace(ModelFolder(tmp_path / "back").config, remat="none") == config
    hf_config.unlink()
    for source in (weights, weights.parent):
        message = refused(capsys, "from-torch", source, "--out", tmp_path / "x")
        assert f"{hf_config}: no such file" in message


def test_a_clip_without_config_gives_a_warning(checkpoints, tmp_path, capsys):
    clip = tmp_path / "clip"
    write_checkpoint(clip_source(), clip, clip_hf_config(CONFIG.clip) | {"hidden_act": "gelu"})
    assert run("from-torch", clip / "model.safetensors", "--out", tmp_path / "model") == 0
    assert ModelFolder(tmp_path / "model").config.activation == "gelu"
    (clip / "config.json").unlink()
    capsys.readouterr()
    run("from-torch", checkpoints / "glamm", "--clip", clip, "--out", tmp_path / "x")
    assert f"{clip / 'config.json'}: no such file; number of heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        ("glamm", {"rope_theta": 500.0}, "llama.rope_theta = 10000.0, but .* say 500.0"),
        (
            "glamm",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "llama.rope_scaling = None, but .*'linear'",
        ),
        ("glamm", {"rms_norm_eps": 1e-2}, "llama.norm_eps"),
        ("glamm", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("glamm", {"mm_vision_select_layer": -1}, "clip.projector_layer = -2, but .* say -1"),
        ("clip", {"hidden_act": "gelu"}, "clip.activation = 'quick_gelu', but .* say 'gelu'"),
        ("clip", {"layer_norm_eps": 1e-2}, "clip.norm_eps"),
    ],
)
def test_a_stored_configuration_does_not_hide_other_keys(
    checkpoints, tmp_path, capsys, part, keys, message
):
    folders = {"glamm": checkpoints / "glamm", "clip": checkpoints / "clip"}
    edited = tmp_path / part
    edited.mkdir()
    for path in folders[part].iterdir():
        (edited / path.name).symlink_to(path)
    (edited / "config.json").unlink()
    stored = json.loads((folders[part] / "config.json").read_text())
    assert part == "clip" or "glamm_jax" in stored
    (edited / "config.json").write_text(json.dumps(stored | keys))
    folders[part] = edited
    arguments = ("from-torch", folders["glamm"], "--clip", folders["clip"])
    error = refused(capsys, *arguments, "--out", tmp_path / "x")
    assert re.search(message, error) and "config.json" in error


@pytest.mark.parametrize("config", [SMALL.clip, SMALL.sam, ALONE])
def test_a_part_alone_returns(tmp_path, config):
    write_any_model(tmp_path / "model", config, np.dtype(np.float32))
    assert run("to-torch", tmp_path / "model", "--out", tmp_path / "torch") == 0
    assert run("from-torch", tmp_path / "torch", "--out", tmp_path / "back") == 0
    back = ModelFolder(tmp_path / "back").config
    assert (replace(back, remat="none") if isinstance(back, LlamaConfig) else back) == config
    assert_same(tensors(tmp_path / "back"), tensors(tmp_path / "model"))


def test_the_shipped_model_is_exported(tmp_path):
    model = Path(__file__).parents[2] / "checkpoints" / "miniworld-tiny"
    for part in ("glamm", "clip"):
        assert run("to-torch", model, "--part", part, "--out", tmp_path / part) == 0
    arguments = ("from-torch", tmp_path / "glamm", "--clip", tmp_path / "clip")
    assert run(*arguments, "--out", tmp_path / "back") == 0
    assert (tmp_path / "back" / "config.json").read_text() == (model / "config.json").read_text()
    assert_same(tensors(tmp_path / "back"), tensors(model))

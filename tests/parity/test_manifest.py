"""Every tensor of the recorded checkpoints has a disposition, and a changed manifest is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.parity.manifest import check
from tools.parity.report import ComparisonReport


def checked(folder: Path) -> ComparisonReport:
    ledger = ComparisonReport()
    check(folder, ledger)
    return ledger


@pytest.fixture(scope="module")
def ledger(goldens) -> ComparisonReport:
    return checked(goldens)


def test_every_tensor_of_every_checkpoint_is_accounted_for(ledger):
    assert not ledger.failures
    assert not ledger.broken
    files = {}
    for row in ledger.rows:
        if row.name.startswith("tensors."):
            files[row.file] = files.get(row.file, 0) + 1
    assert files == {
        "manifest/clip_vit_h14_laion_hf.json": 520,
        "manifest/clip_vit_l14_336_hf.json": 392,
        "manifest/glamm_7b_full_with_vision_tower.json": 1360,
        "manifest/glamm_7b_saved_hf.json": 968,
        "manifest/glamm_7b_training_lora.json": 1096,
        "manifest/llama_7b_hf.json": 323,
        "manifest/lora_adapter_peft.json": 128,
        "manifest/sam_vit_b.json": 314,
        "manifest/sam_vit_h.json": 594,
        "manifest/sam_vit_l.json": 482,
    }


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("model.layers.7.mlp.up_proj.weight", "converted"),
        ("model.layers.7.self_attn.rotary_emb.inv_freq", "recomputed: rotary frequencies theta"),
        ("model.vision_tower.vision_tower.vision_model.post_layernorm.bias", "carried: the pooled"),
    ],
)
def test_the_note_is_the_disposition_of_a_tensor(ledger, name, disposition):
    rows = [r for r in ledger.rows if r.name == f"tensors.{name}" and "full" in r.file]
    assert rows[0].note.startswith(disposition)


def tampered(goldens: Path, tmp_path: Path, stem: str, change) -> ComparisonReport:
    """The manifest alone, one file of it changed."""
    part = tmp_path / "manifest"
    part.mkdir()
    for other in ("glamm_7b_full_with_vision_tower", "clip_vit_l14_336_hf", stem):
        text = (goldens / "manifest" / f"{other}.json").read_text(encoding="utf-8")
        value = json.loads(text)
        if other == stem:
            change(value)
        (part / f"{other}.json").write_text(json.dumps(value), encoding="utf-8")
    return checked(tmp_path)


def _rename(value):
    tensors = value["tensors"]
    tensors["model.layers.3.mlp.up.weight"] = tensors.pop("model.layers.3.mlp.up_proj.weight")


def _transpose(value):
    value["tensors"]["model.layers.3.mlp.up_proj.weight"][0].reverse()


CHANGES = {
    "a name": ("llama_7b_hf", _rename, "model.layers.3.mlp.up"),
    "a shape": ("llama_7b_hf", _transpose, "model.layers.3.mlp.up_proj.weight"),
    "a carried shape": (
        "clip_vit_l14_336_hf",
        lambda v: v["tensors"]["vision_model.encoder.layers.23.mlp.fc1.bias"].__setitem__(0, [4]),
        "layers.23.mlp.fc1.bias",
    ),
    "a dtype": (
        "sam_vit_b",
        lambda v: v["tensors"]["image_encoder.pos_embed"].__setitem__(1, "int8"),
        "image_encoder.pos_embed",
    ),
    "a count": ("sam_vit_b", lambda v: v.update(numel=v["numel"] + 1), "numel"),
    "an id": (
        "glamm_7b_notes",
        lambda v: v["added_tokens_in_order"].update({"[SEG]": 32003}),
        "[SEG]",
    ),
    "a parameter": ("trainable_after_lora_setup", lambda v: v.update(n_lora=127), "n_lora"),
    "a trained name": (
        "trainable_after_lora_setup",
        lambda v: v["trainable_non_lora"].pop(),
        "trainable_non_lora",
    ),
    "a dropped name": ("dropped_by_merge", lambda v: v["keys"].pop(), "keys"),
    "a target": ("lora_notes", lambda v: v["targets"].pop(), "targets"),
    "a CLIP": ("clip_configs", lambda v: v["clip_vit_l14_336"].update(hidden_act="gelu"), "act"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_manifest_is_named(goldens, tmp_path, what):
    stem, change, name = CHANGES[what]
    ledger = tampered(goldens, tmp_path, stem, change)
    assert any(name in row.name for row in ledger.failures), ledger.failures

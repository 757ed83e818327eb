"""A BERT's similarity is that of one text at a time, however texts are batched."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.evaluation.bert_similarity import MAX_TOKENS, BertSimilarity, EncoderError

pytest.importorskip("torch")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "red", "dog", "car", "##s"]
TEXTS = ["a red dog", "the dogs", "car", "", "a red red red car the dog", "zebra", "the dogs"]


def _write_encoder(folder: Path, seed: int = 0) -> None:
    """A tiny random BERT, its weights large enough for texts to differ."""
    from transformers import BertConfig, BertModel, BertTokenizer, set_seed

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "bert"
    _write_encoder(path)
    return path


def _alone(folder: Path, text: str) -> np.ndarray:
    """As the original embeds: one text, no filler, the mean over all its tokens."""
    from transformers import BertModel, BertTokenizer

    tokens = BertTokenizer.from_pretrained(folder)(
        text, return_tensors="pt", max_length=MAX_TOKENS, truncation=True
    )
    hidden = BertModel.from_pretrained(folder)(**tokens).last_hidden_state
    return hidden[0].mean(0).detach().numpy().astype(np.float64)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_agree_with_one_text_at_a_time(folder: Path, batch_size: int) -> None:
    similarity = BertSimilarity(folder, batch_size=batch_size)
    vectors = np.stack([_alone(folder, text) for text in TEXTS])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = units @ units.T
    assert expected.min() < 0.7  # texts are told apart, so agreement says something
    np.testing.assert_allclose(similarity(TEXTS, TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(similarity(TEXTS[:2], TEXTS[2:]), expected[:2, 2:], atol=1e-6)


def test_a_text_is_embedded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = BertSimilarity(folder, batch_size=4)
    batches: list[list[str]] = []
    embedded = similarity._embed

    def counted(texts: list[str]) -> Any:
        batches.append(texts)
        return embedded(texts)

    monkeypatch.setattr(similarity, "_embed", counted)
    similarity.embed_all(TEXTS)
    similarity(TEXTS, [*TEXTS, "the car"])
    assert [len(batch) for batch in batches] == [4, 2, 1]
    assert sorted(text for batch in batches for text in batch) == sorted({*TEXTS, "the car"})


def test_long_texts_are_cut_where_the_original_cuts(folder: Path) -> None:
    long = "red dog " * 400
    similarity = BertSimilarity(folder)
    assert similarity([long], [long + "car car"])[0, 0] == pytest.approx(1, abs=1e-6)


def test_nothing_compared_is_an_empty_table(folder: Path) -> None:
    similarity = BertSimilarity(folder)
    assert similarity([], ["a dog"]).shape == (0, 1)
    assert similarity(["a dog"], []).shape == (1, 0)


def test_the_name_tells_encoders_apart(folder: Path, tmp_path: Path) -> None:
    _write_encoder(tmp_path / "same")
    _write_encoder(tmp_path / "other", seed=1)
    hashes = [BertSimilarity(path).name.partition(" ") for path in sorted(tmp_path.iterdir())]
    own = BertSimilarity(folder).name
    assert own.startswith(f"{folder} (sha256 ")
    assert hashes[1][2] == own.partition(" ")[2] != hashes[0][2]


def test_a_missing_encoder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="Without network access use a folder"):
        BertSimilarity(tmp_path / "nothing")
    with pytest.raises(EncoderError, match="not an encoder"):
        BertSimilarity("somebody/absent-encoder")


def test_an_encoder_whose_weights_are_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    _write_encoder(tmp_path / "bert")
    from safetensors.numpy import load_file, save_file

    weights = load_file(tmp_path / "bert" / "model.safetensors")
    save_file(
        {key: x for key, x in weights.items() if "layer.1.output" not in key},
        tmp_path / "bert" / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(EncoderError, match=r"tensors are missing, such as .*layer\.1\.output"):
        BertSimilarity(tmp_path / "bert")


def test_a_missing_pooler_does_not_matter(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    _write_encoder(tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    assert any("pooler" in key for key in weights)
    save_file(
        {key: x for key, x in weights.items() if "pooler" not in key},
        tmp_path / "bert" / "model.safetensors",
        metadata={"format": "pt"},
    )
    found, expected = (BertSimilarity(path)(TEXTS, TEXTS) for path in (tmp_path / "bert", folder))
    np.testing.assert_array_equal(found, expected)


def test_missing_torch_is_said_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name)
    )
    with pytest.raises(EncoderError, match=r"pip install 'glamm-jax\[eval\]'"):
        BertSimilarity(folder)

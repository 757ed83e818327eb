"""The tokenizer gives the recorded ids and texts, and keeps the ids that a folder assigns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.config import TokenConfig
from glamm_jax.text.special_tokens import ADDED_TOKENS, IMAGE_ID
from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(goldens) -> Tokenizer:
    return load_tokenizer(goldens / "tokenizer")


@pytest.fixture(scope="module")
def recorded(goldens) -> dict:
    return json.loads((goldens / "conversations" / "tokenizer_golden.json").read_text("utf-8"))


def test_every_recorded_text_has_the_recorded_ids(tokenizer, recorded):
    for entry in recorded["encodings"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"], entry["text"]
        assert tokenizer.encode(entry["text"], False) == entry["ids_no_special"], entry["text"]


def test_recorded_ids_decode_to_the_recorded_text(tokenizer, recorded):
    for entry in recorded["encodings"]:
        assert tokenizer.decode(entry["ids"]) == entry["decoded"]
        assert tokenizer.decode(entry["ids"], True) == entry["decoded_skip_special"]


def test_every_image_becomes_one_placeholder_id(tokenizer, recorded):
    for entry in recorded["image_token_encodings"]:
        assert tokenizer.encode_with_images(entry["text"]) == entry["ids"]
        assert entry["ids"].count(IMAGE_ID) == entry["text"].count("<image>")


def test_added_tokens_follow_the_pieces_in_order(tokenizer):
    size = tokenizer.model.get_piece_size()
    assert tokenizer.added == {token: size + i for i, token in enumerate(ADDED_TOKENS)}
    assert tokenizer.tokens == TokenConfig.appended_to(size)


def test_white_space_beside_an_added_token_does_not_change_the_ids(tokenizer):
    assert tokenizer.encode("a \t[SEG] \n b") == tokenizer.encode("a[SEG]b")
    assert tokenizer.encode("a </s> b") != tokenizer.encode("a</s>b")


def test_decoding_leaves_images_out_and_refuses_foreign_ids(tokenizer):
    ids = tokenizer.encode("a dog")
    assert tokenizer.decode([*ids, IMAGE_ID]) == tokenizer.decode(ids)
    with pytest.raises(TokenizerError, match="id 807 is outside the vocabulary of 807 ids"):
        tokenizer.decode([807])


@pytest.mark.parametrize("field", ["seg", "region", "phrase_end", "bos", "eos", "pad"])
def test_a_model_with_another_special_id_is_refused(tokenizer, goldens, field):
    tokens = replace(tokenizer.tokens, **{field: 5})
    with pytest.raises(TokenizerError, match="5 in the model"):
        load_tokenizer(goldens / "tokenizer", tokens)
    load_tokenizer(goldens / "tokenizer", tokenizer.tokens)


def _folder_with(goldens, tmp_path, **changes) -> Tokenizer:
    """A copy of the recorded tokenizer folder with other JSON files."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(goldens / "tokenizer", folder)
    for name, value in changes.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return load_tokenizer(folder)


def test_ids_that_a_folder_assigns_to_added_tokens_are_kept(goldens, tmp_path):
    listed = {"<p>": 801, "[SEG]": 800}
    tokenizer = _folder_with(goldens, tmp_path, added_tokens=listed)
    assert listed.items() <= tokenizer.added.items()
    assert sorted(tokenizer.added.values()) == list(range(800, 807))


def test_ids_of_the_newer_folder_format_are_kept(goldens, tmp_path):
    settings = {"added_tokens_decoder": {"800": {"content": "[SEG]"}, "1": {"content": "<s>"}}}
    tokenizer = _folder_with(goldens, tmp_path, tokenizer_config=settings)
    assert tokenizer.added["[SEG]"] == 800
    assert "<s>" not in tokenizer.added


def test_a_plain_control_token_in_the_map_removes_white_space(goldens, tmp_path, tokenizer):
    plain = _folder_with(goldens, tmp_path, special_tokens_map={"eos_token": "</s>"})
    assert plain.encode("a </s> b") == tokenizer.encode("a</s>b")


def test_a_folder_may_enable_closed_up_punctuation(goldens, tmp_path, tokenizer):
    closing = _folder_with(goldens, tmp_path, tokenizer_config={})
    ids = tokenizer.encode("It is [SEG].", add_special=False)
    assert tokenizer.decode(ids) == "It is [SEG] ."
    assert closing.decode(ids) == "It is [SEG]."


words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=30)


@given(words)
def test_any_text_is_encoded_without_unknown_tokens(goldens, text):
    tokenizer = load_tokenizer(goldens / "tokenizer")
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos
    assert all(0 <= i < tokenizer.size for i in ids)
    assert tokenizer.unk not in ids
    assert isinstance(tokenizer.decode(ids), str)

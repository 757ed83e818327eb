"""Tokenizers that transformers 5 saves: `tokenizer.json` without `tokenizer.model`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.errors import GLaMMWarning
from glamm_jax.text.chat_template import RELEASED_TEMPLATE
from glamm_jax.text.label_spans import LabelError, encode_turns
from glamm_jax.text.special_tokens import ADDED_TOKENS, IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tests.text.test_label_spans import WORDS

tokenizers = pytest.importorskip("tokenizers")
TEXTS = st.lists(st.sampled_from((*WORDS, "</s>", "\u00e9", "\U0001f436", "dogs"))).map("".join)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|reserved_special_token_0|>"]
CORPUS = ["A dog and a cat. ASSISTANT: USER: What is this?\n", "dogs 1999 \u6771\u4eac"] * 4


def byte_level(folder: Path, seg: int = 0, **names: str | None) -> Path:
    """Train a byte-level BPE in the folder; with `seg` further tokens, the last of them [SEG]."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(seg - 1)] + ["[SEG]"] * (seg > 0))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "unk_token": SPECIAL[0]}
    write(folder / "tokenizer_config.json", roles | {"pad_token": SPECIAL[2]} | names)
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(folder: Path, change: Callable[[dict], None], name: str = "tokenizer.json") -> Path:
    value = json.loads((folder / name).read_text("utf-8"))
    change(value)
    write(folder / name, value)
    return folder


@pytest.fixture(scope="module")
def bytes_folder(tmp_path_factory) -> Path:
    return byte_level(tmp_path_factory.mktemp("byte") / "level")


@pytest.fixture(scope="module")
def bytes_tokenizer(bytes_folder) -> Tokenizer:
    return load_tokenizer(bytes_folder)


@pytest.fixture(scope="module")
def converted(goldens, tmp_path_factory) -> Path:
    """The recorded sentencepiece model as transformers saves it, [SEG] as the first added token."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("converted") / "llama"
    theirs = transformers.LlamaTokenizer.from_pretrained(goldens / "tokenizer")
    theirs.add_tokens(["[SEG]", *(token for token in ADDED_TOKENS if token != "[SEG]")])
    theirs.save_pretrained(folder)
    assert not (folder / "tokenizer.model").exists()
    return folder


@pytest.fixture(scope="module")
def pair(goldens, converted, tmp_path_factory) -> tuple[Tokenizer, Tokenizer]:
    """The sentencepiece model and its conversion, with the same ids of added tokens."""
    folder = tmp_path_factory.mktemp("pieces") / "llama"
    shutil.copytree(goldens / "tokenizer", folder)
    tokenizer = load_tokenizer(converted)
    write(folder / "added_tokens.json", tokenizer.added)
    return load_tokenizer(folder), tokenizer


# ------------------------------------------------------------------ a converted sentencepiece model


@given(TEXTS)
@settings(max_examples=60)
def test_a_converted_sentencepiece_model_gives_the_same_ids_and_texts(pair, text):
    pieces, converted = pair
    ids = pieces.encode(text)
    assert converted.encode(text) == ids
    assert converted.decode(ids) == pieces.decode(ids)
    assert converted.decode(ids, True) == pieces.decode(ids, True)


def test_every_recorded_text_has_the_recorded_ids(goldens, tmp_path, converted):
    shutil.copytree(converted, tmp_path / "t")
    folder = edit(tmp_path / "t", lambda v: v.update(added_tokens=v["added_tokens"][:3]))
    tokenizer = load_tokenizer(folder)
    path = goldens / "conversations" / "tokenizer_golden.json"
    for entry in json.loads(path.read_text("utf-8"))["encodings"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"], entry["text"]
        assert tokenizer.decode(entry["ids"]) == entry["decoded"]


def test_added_tokens_have_their_recorded_ids_with_and_without_tokenizer_model(
    goldens, tmp_path, converted
):
    assert load_tokenizer(converted).added["[SEG]"] == 800
    shutil.copytree(converted, tmp_path / "t")
    shutil.copy(goldens / "tokenizer" / "tokenizer.model", tmp_path / "t")
    tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.added == load_tokenizer(converted).added
    assert tokenizer.control == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.tokens == load_tokenizer(converted).tokens


def test_files_of_two_tokenizers_are_refused(goldens, tmp_path, converted):
    shutil.copytree(converted, tmp_path / "t")
    shutil.copy(goldens / "tokenizer" / "tokenizer.model", tmp_path / "t")

    def swap(value: dict) -> None:
        vocabulary = value["model"]["vocab"]
        vocabulary["\u2581the"], vocabulary["\u2581t"] = (
            vocabulary["\u2581t"],
            vocabulary["\u2581the"],
        )

    with pytest.raises(TokenizerError, match="the two files are not of one tokenizer"):
        load_tokenizer(edit(tmp_path / "t", swap))


def test_places_that_give_a_token_two_ids_are_refused(tmp_path, converted):
    shutil.copytree(converted, tmp_path / "t")
    write(tmp_path / "t" / "added_tokens.json", {"[SEG]": 804})
    with pytest.raises(TokenizerError, match=r"\[SEG\] is 804 in added_tokens.json, but 800 in"):
        load_tokenizer(tmp_path / "t")


def test_a_file_of_tiktoken_is_left_out_with_a_warning(tmp_path, bytes_folder):
    shutil.copytree(bytes_folder, tmp_path / "t")
    (tmp_path / "t" / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.warns(GLaMMWarning, match="tokenizer.json is read instead"):
        assert load_tokenizer(tmp_path / "t").size == load_tokenizer(bytes_folder).size


# ------------------------------------------------------------------ byte-level BPE


@given(TEXTS)
@settings(max_examples=60)
def test_byte_level_ids_are_those_of_the_library_and_decode_exactly(
    bytes_folder, bytes_tokenizer, text
):
    theirs = tokenizers.Tokenizer.from_file(str(bytes_folder / "tokenizer.json"))
    theirs.add_tokens(list(ADDED_TOKENS))
    parts = text.split("</s>")  # the end mark of the templates is not in this vocabulary
    expected: list[int] = []
    for i, part in enumerate(parts):
        expected += [bytes_tokenizer.eos] * (i > 0) + theirs.encode(part).ids
    assert bytes_tokenizer.encode(text) == expected
    assert bytes_tokenizer.decode(expected).replace(SPECIAL[2], "</s>") == text


def test_roles_and_ids_of_a_byte_level_folder(bytes_tokenizer):
    tokenizer = bytes_tokenizer
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == (1, 2, 0)
    assert tokenizer.pad == 0  # the folder pads with the end token, which answers contain
    assert not tokenizer.add_bos
    assert not tokenizer.add_eos
    assert tokenizer.control["</s>"] == tokenizer.control["<|im_end|>"] == 2
    base = tokenizer.size - len(ADDED_TOKENS)
    assert list(tokenizer.added.items()) == [(t, base + i) for i, t in enumerate(ADDED_TOKENS)]


def test_recorded_ids_of_a_byte_level_folder_are_kept(tmp_path, bytes_tokenizer):
    tokenizer = load_tokenizer(byte_level(tmp_path / "t", seg=3))
    base = bytes_tokenizer.size - len(ADDED_TOKENS)
    assert tokenizer.added["[SEG]"] == base + 2
    assert tokenizer.added["<im_start>"] == base + 3
    assert tokenizer.size == base + 9
    assert tokenizer.encode("a[SEG]")[-1] == base + 2


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map("".join), min_size=2, max_size=6))
@settings(max_examples=60)
def test_labels_of_a_byte_level_tokenizer_are_the_answers(bytes_tokenizer, turns):
    tokenizer, turns = bytes_tokenizer, turns[: len(turns) // 2 * 2]
    encoded = encode_turns(turns, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode_with_images(RELEASED_TEMPLATE.render(turns))
    learned = np.split(encoded.labels, np.flatnonzero(encoded.labels == tokenizer.eos) + 1)
    texts = [tokenizer.decode(ids[ids != IGNORE_ID]) for ids in learned if len(ids)]
    assert texts == [f" {turn}{SPECIAL[2]}" for turn in turns[1::2]]


def test_a_control_token_of_the_vocabulary_is_refused_in_a_turn(bytes_tokenizer):
    with pytest.raises(LabelError, match=r"control token '<\|im_start\|>'"):
        encode_turns(["a", "<|im_start|>"], bytes_tokenizer)


def test_a_beginning_that_the_library_adds_is_added(tmp_path):
    def begin(value: dict) -> None:
        token = {"SpecialToken": {"id": SPECIAL[1], "type_id": 0}}
        value["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {SPECIAL[1]: {"id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]]}},
        }

    tokenizer = load_tokenizer(edit(byte_level(tmp_path / "t"), begin))
    assert tokenizer.encode("dog")[0] == 1
    assert tokenizer.encode("dog", add_special=False)[0] != 1


def test_padding_is_a_token_that_no_text_contains(tmp_path):
    folder = byte_level(tmp_path / "t", unk_token=None, bos_token=None)
    assert load_tokenizer(folder).pad == 3
    edit(folder, lambda value: value["added_tokens"].pop())
    with pytest.raises(TokenizerError, match="name a token that no text contains as pad_token"):
        load_tokenizer(folder)


# ------------------------------------------------------------------ damaged files


def _token(value: dict, **changes: Any) -> None:
    value["added_tokens"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("model"), "no field 'model'"),
        (lambda v: v["model"].update(type="WordPiece"), "'WordPiece': not a tokenizer of LLaMA"),
        (lambda v: v["model"].update(dropout=0.1), "dropout: the same text would get random ids"),
        (lambda v: v["model"].update(vocab=[]), "vocab: .* is not an object"),
        (lambda v: v["model"]["vocab"].update(a="x"), "vocab: a = 'x' is not a whole number"),
        (lambda v: v["model"]["vocab"].update(a=1 << 60), "at most"),
        (lambda v: v["model"]["vocab"].update(a=5), "two pieces have the same id"),
        (lambda v: v["model"].update(merges=[["no", "piece"]]), "library cannot use it"),
        (lambda v: v.update(decoder=None, pre_tokenizer=None), "neither byte-level nor"),
        (lambda v: v.update(decoder=None), "no decoder"),
        (lambda v: v.update(added_tokens={}), "added_tokens = {} is not a list"),
        (lambda v: _token(v, id=None), r"added_tokens\[0\]: no field 'id'"),
        (lambda v: _token(v, id=7), "id 7 is"),
        (lambda v: _token(v, content=""), "the token of id 0 is empty"),
        (lambda v: _token(v, content="<|im_end|>"), r"id 0 is '<.endoftext.>' and"),
        (lambda v: v.update(normalizer=3, decoder={"type": "Fuse"}, pre_tokenizer={}), "normalize"),
    ],
)
def test_a_damaged_file_is_refused_with_the_field(bytes_folder, tmp_path, change, message):
    shutil.copytree(bytes_folder, tmp_path / "t")
    with pytest.raises(TokenizerError, match=message) as error:
        load_tokenizer(edit(tmp_path / "t", change))
    assert "tokenizer.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("eos_token"), "no file names the eos_token"),
        (lambda v: v.update(eos_token=4), "eos_token = 4 is not a text"),
        (lambda v: v.update(eos_token={"lstrip": True}), "eos_token: no field 'content'"),
        (lambda v: v.update(eos_token="<end>"), "no token '<end>', which is the eos_token"),
        (lambda v: v.update(added_tokens_decoder=[1]), "is not an object"),
        (lambda v: v.update(added_tokens_decoder={"x": {}}), "'x' is no id"),
    ],
)
def test_damaged_settings_are_refused_with_the_field(bytes_folder, tmp_path, change, message):
    shutil.copytree(bytes_folder, tmp_path / "t")
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(edit(tmp_path / "t", change, "tokenizer_config.json"))

"""LLaMA's sentencepiece tokenizer with added tokens, as used to train the released checkpoints.

Quirk 30: the versions of Hugging Face's tokenizers treat white space around added tokens in
different ways, and the released checkpoints were trained with one of them. It is implemented here
on plain sentencepiece: text is cut at added and control tokens, white space next to an added token
is dropped, and every piece of text between two such tokens is encoded separately, with a dummy
space in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Int

from glamm_jax.config import TokenConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.text.special_tokens import (
    ADDED_TOKENS,
    IMAGE_ID,
    IMAGE_PLACEHOLDER,
    TOKEN_CONFIG_FIELDS,
    token_config,
)

CONTROL_NAMES = ("bos_token", "eos_token", "unk_token")
# Text whose space Hugging Face removes from decoded English if the folder enables it.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class TokenizerError(GLaMMError):
    """A tokenizer folder that cannot be used, or whose ids are not those of the model."""


@dataclass(frozen=True)
class Strip:
    """The sides of a special token on which white space is removed."""

    left: bool = True
    right: bool = True


class Tokenizer:
    """Converts text to ids and back.

    The ids are those of the sentencepiece model, followed by those of the added tokens.

    Attributes:
        model: the sentencepiece model.
        added: added token -> id.
        control: <unk>, <s> and </s> -> id.
        bos: id of <s>.
        eos: id of </s>.
        unk: id of <unk>.
        pad: id of the padding token.
        add_bos: whether `encode` puts <s> in front.
        add_eos: whether `encode` puts </s> behind.
        clean_up: whether `decode` removes the space before punctuation.

    Source: slow LlamaTokenizer of transformers 4.28, with the pad token set to the unknown token.
    Quirk 8: so an unknown character, whose id is 0, is masked as padding.
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        added: Mapping[str, int],
        strips: Mapping[str, Strip] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        """Create a tokenizer from its parts. `load_tokenizer` reads them from a folder.

        Args:
            model: the sentencepiece model.
            added: added token -> id. White space next to an added token is always removed.
            strips: where white space next to a control token is removed; by default nowhere.
            settings: content of `tokenizer_config.json`.
        """
        settings = settings or {}
        self.model = model
        self.added = dict(added)
        self.bos, self.eos, self.unk = model.bos_id(), model.eos_id(), model.unk_id()
        self.pad = self.unk
        self.add_bos = bool(settings.get("add_bos_token", True))
        self.add_eos = bool(settings.get("add_eos_token", False))
        self.clean_up = bool(settings.get("clean_up_tokenization_spaces", True))
        self.control = {model.id_to_piece(i): i for i in (self.unk, self.bos, self.eos)}
        self._strips = {token: Strip(False, False) for token in self.control} | dict(strips or {})
        self._added_by_id = {i: token for token, i in self.added.items()}
        special = sorted({*self.control, *self.added}, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    @property
    def size(self) -> int:
        """Number of ids: sentencepiece pieces and added tokens."""
        return max(self.model.get_piece_size(), 1 + max(self.added.values(), default=-1))

    @property
    def tokens(self) -> TokenConfig:
        """Ids of the special tokens, as the model's configuration lists them."""
        return token_config(self.added, pad=self.pad, bos=self.bos, eos=self.eos)

    def check(self, tokens: TokenConfig) -> None:
        """Check that a model's special tokens have the same ids as this tokenizer's.

        Quirks 24 and 25: the original has these ids as constants. With another vocabulary it reads
        wrong tokens as regions, without an error.

        Raises:
            TokenizerError: some ids differ; the message lists them.
        """
        expected = self.tokens
        names = {field: token for token, field in TOKEN_CONFIG_FIELDS.items()}
        names |= {"pad": "the padding token", "bos": "<s>", "eos": "</s>"}
        wrong = [
            f"{name} is {getattr(expected, field)} here, {getattr(tokens, field)} in the model"
            for field, name in names.items()
            if getattr(expected, field) != getattr(tokens, field)
        ]
        if wrong:
            raise TokenizerError(
                "the tokenizer does not belong to this model: "
                + "; ".join(wrong)
                + ". Use the tokenizer folder that came with the checkpoint."
            )

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Encode a text; `add_special` puts <s> in front (and </s> behind, if configured)."""
        ids: list[int] = []
        for chunk in self._split(text):
            if chunk in self.added:
                ids.append(self.added[chunk])
            elif chunk in self.control:
                ids.append(self.control[chunk])
            else:
                ids += self.model.encode(chunk)
        if not add_special:
            return ids
        return [self.bos] * self.add_bos + ids + [self.eos] * self.add_eos

    def encode_with_images(self, text: str) -> list[int]:
        """Encode a text in which every `<image>` becomes the single id -200.

        Quirk 1: the id later expands to all patches of the image. The texts between images are
        encoded separately.

        Source: model/llava/mm_utils.py:22.
        """
        ids = [self.bos] * self.add_bos
        for i, part in enumerate(text.split(IMAGE_PLACEHOLDER)):
            ids += [IMAGE_ID] * (i > 0)
            ids += self.encode(part, add_special=False) + [self.eos] * self.add_eos
        return ids

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "t"], skip_control: bool = False) -> str:
        """Decode ids to text. Added tokens are enclosed in spaces; image ids are left out.

        Args:
            ids: the ids.
            skip_control: leave out <s>, </s> and <unk>. Added tokens are never left out.

        Raises:
            TokenizerError: an id is not in the vocabulary.
        """
        runs: list[str] = []
        pieces: list[str] = []
        for token_id in (int(i) for i in ids):
            if token_id == IMAGE_ID or (skip_control and token_id in self.control.values()):
                continue
            if token_id in self._added_by_id:
                if pieces:
                    runs.append(self._decode_pieces(pieces))
                    pieces = []
                runs.append(self._added_by_id[token_id])
            elif 0 <= token_id < self.model.get_piece_size():
                pieces.append(self.model.id_to_piece(token_id))
            else:
                raise TokenizerError(f"id {token_id} is outside the vocabulary of {self.size} ids")
        if pieces:
            runs.append(self._decode_pieces(pieces))
        text = " ".join(runs)
        if self.clean_up:
            for spaced in CLEAN_UP:
                text = text.replace(spaced, spaced.strip() if spaced != " ' " else "'")
        return text

    def _decode_pieces(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces; control tokens stay, with the spaces of the original.

        A control token that follows ordinary text puts a space before that text, not behind it:
        "x</s>" is decoded as " x</s>".
        """
        text, plain, after_control = "", [], False
        for i, piece in enumerate(pieces):
            if piece in self.control:
                text += " " if i > 0 and not after_control else ""
                text += self.model.decode_pieces(plain) + piece
                plain, after_control = [], True
            else:
                plain.append(piece)
                after_control = False
        return text + self.model.decode_pieces(plain)

    def _split(self, text: str) -> list[str]:
        """Split a text at special tokens and remove the white space next to them."""
        chunks = [chunk for chunk in self._special.split(text) if chunk]
        for i, chunk in enumerate(chunks):
            if chunk not in self.added and chunk not in self.control:
                continue
            strip = self._strips.get(chunk, Strip())
            if strip.right and i + 1 < len(chunks):
                chunks[i + 1] = chunks[i + 1].lstrip()
            if strip.left and i > 0:
                chunks[i - 1] = chunks[i - 1].rstrip()
        return [chunk for chunk in chunks if chunk]


def load_tokenizer(folder: Path | str, tokens: TokenConfig | None = None) -> Tokenizer:
    """Read a Hugging Face tokenizer folder; added tokens that it lacks are appended in order.

    Args:
        folder: holds `tokenizer.model` and, optionally, its JSON files.
        tokens: the model's ids, which must equal the tokenizer's; None: not compared.

    Raises:
        TokenizerError: the folder or a file in it cannot be used, or ids differ.
    """
    folder = Path(folder)
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise TokenizerError(
            f"{path}: no such file; a tokenizer folder holds LLaMA's tokenizer.model"
        )
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load(str(path))
    except Exception as error:  # sentencepiece raises several kinds
        raise TokenizerError(f"{path}: not a sentencepiece model") from error
    settings = _read_json(folder / "tokenizer_config.json")
    added = _added_ids(model, _listed_added_tokens(folder, settings), folder)
    special = _read_json(folder / "special_tokens_map.json")
    tokenizer = Tokenizer(model, added, _control_strips(special, settings), settings)
    if tokens is not None:
        tokenizer.check(tokens)
    return tokenizer


def _added_ids(
    model: sentencepiece.SentencePieceProcessor, listed: Mapping[str, int], folder: Path
) -> dict[str, int]:
    """Return the ids of all added tokens: the folder's, then those of GLaMM's seven it lacks."""
    size = model.get_piece_size()
    added = {token: i for token, i in listed.items() if i >= size}
    if sorted(added.values()) != list(range(size, size + len(added))):
        raise TokenizerError(
            f"{folder}: ids of the added tokens {added} do not follow the {size} pieces one by one"
        )
    for token in ADDED_TOKENS:
        if token not in added:
            piece = model.piece_to_id(token)
            next_id = size + sum(i >= size for i in added.values())
            added[token] = piece if piece != model.unk_id() else next_id
    return added


def _listed_added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the added tokens that the folder lists, in either of Hugging Face's two formats."""
    listed = {str(token): int(i) for token, i in _read_json(folder / "added_tokens.json").items()}
    for i, entry in settings.get("added_tokens_decoder", {}).items():
        listed.setdefault(entry["content"], int(i))
    return listed


def _control_strips(special: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Strip]:
    """Return where white space next to control tokens is removed.

    A token given as a plain string in `special_tokens_map.json` removes it on both sides; one given
    as an object has `lstrip` and `rstrip`.
    """
    strips = {}
    for name in CONTROL_NAMES:
        entry = special.get(name, settings.get(name))
        if isinstance(entry, Mapping):
            left, right = entry.get("lstrip", False), entry.get("rstrip", False)
            strips[entry["content"]] = Strip(bool(left), bool(right))
        elif isinstance(entry, str) and name in special:
            strips[entry] = Strip()
    return strips


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not JSON") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected an object, not {type(value).__name__}")
    return value

"""LLaMA's sentencepiece tokenizer with added tokens, as the released checkpoints were trained.

Spacing around added tokens differs between generations of Hugging Face's tokenizers; the
checkpoints know one of them (trap 30), so it is spelled out here on plain sentencepiece:
text is cut at added and control tokens, white space next to an added token is dropped, and every
piece of text between two such tokens is encoded by itself, with a dummy space in front.
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
# Pairs that Hugging Face closes up in decoded English when a folder asks for it.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class TokenizerError(GLaMMError):
    """A tokenizer folder cannot be used, or its ids are not the model's."""


@dataclass(frozen=True)
class Strip:
    """Which sides of a special token lose their white space."""

    left: bool = True
    right: bool = True


class Tokenizer:
    """Text to ids and back; ids are those of the sentencepiece model, added tokens behind them.

    `added`: token -> id. `strips`: white space around control tokens, taken from the folder;
    added tokens always lose it on both sides.

    Source: slow LlamaTokenizer of transformers 4.28, with the pad token set to the unknown token
    (trap 8: id 0 in a text is masked as padding).
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        added: Mapping[str, int],
        strips: Mapping[str, Strip] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
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
        self._names = {i: token for token, i in self.added.items()}
        known = sorted({*self.control, *self.added}, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, known)) + ")")

    @property
    def size(self) -> int:
        """Number of ids: sentencepiece pieces and added tokens."""
        return max(self.model.get_piece_size(), 1 + max(self.added.values(), default=-1))

    @property
    def tokens(self) -> TokenConfig:
        """The ids that the model must know."""
        return token_config(self.added, pad=self.pad, bos=self.bos, eos=self.eos)

    def check(self, tokens: TokenConfig) -> None:
        """Refuse a model whose ids of special tokens are not this tokenizer's (traps 24, 25).

        Raises: TokenizerError listing every id that differs.
        """
        ours = self.tokens
        names = {field: token for token, field in TOKEN_CONFIG_FIELDS.items()}
        names |= {"pad": "the padding token", "bos": "<s>", "eos": "</s>"}
        wrong = [
            f"{name} is {getattr(ours, field)} here, {getattr(tokens, field)} in the model"
            for field, name in names.items()
            if getattr(ours, field) != getattr(tokens, field)
        ]
        if wrong:
            raise TokenizerError(
                "the tokenizer does not belong to this model: "
                + "; ".join(wrong)
                + ". Use the tokenizer folder that came with the checkpoint."
            )

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of a text; `add_special` puts <s> in front (and </s> behind, where configured)."""
        ids = [i for chunk in self._split(text) for i in self._encode_chunk(chunk)]
        if not add_special:
            return ids
        return [self.bos] * self.add_bos + ids + [self.eos] * self.add_eos

    def encode_with_images(self, text: str) -> list[int]:
        """Ids of a text in which every `<image>` is the single id -200 (trap 1).

        Each stretch between images is encoded by itself. Source: model/llava/mm_utils.py:22.
        """
        ids = [self.bos] * self.add_bos
        for i, stretch in enumerate(text.split(IMAGE_PLACEHOLDER)):
            ids += [IMAGE_ID] * (i > 0)
            ids += self.encode(stretch, add_special=False) + [self.eos] * self.add_eos
        return ids

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "t"], skip_control: bool = False) -> str:
        """Text of ids. Added tokens stand between spaces; image ids are left out.

        skip_control: leave <s>, </s> and <unk> out. Added tokens always stay.

        Raises: TokenizerError when an id is not in the vocabulary.
        """
        runs: list[str] = []
        pieces: list[str] = []
        for token_id in (int(i) for i in ids):
            if token_id == IMAGE_ID or (skip_control and token_id in self.control.values()):
                continue
            if token_id in self._names:
                if pieces:
                    runs.append(self._join(pieces))
                    pieces = []
                runs.append(self._names[token_id])
            else:
                pieces.append(self._piece(token_id))
        if pieces:
            runs.append(self._join(pieces))
        text = " ".join(runs)
        return _clean_up(text) if self.clean_up else text

    def _piece(self, token_id: int) -> str:
        if not 0 <= token_id < self.model.get_piece_size():
            raise TokenizerError(f"id {token_id} is outside the vocabulary of {self.size} ids")
        return self.model.id_to_piece(token_id)

    def _join(self, pieces: Sequence[str]) -> str:
        """Pieces as text; control tokens are kept literally, with their odd spacing.

        A control token that follows ordinary text puts a space before that text, not after it:
        "x</s>" comes back as " x</s>".
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
        """The text cut at special tokens, without the white space those swallow."""
        chunks = [chunk for chunk in self._cut.split(text) if chunk]
        for i, chunk in enumerate(chunks):
            if chunk not in self.added and chunk not in self.control:
                continue
            strip = self._strips.get(chunk, Strip())
            if strip.right and i + 1 < len(chunks):
                chunks[i + 1] = chunks[i + 1].lstrip()
            if strip.left and i > 0:
                chunks[i - 1] = chunks[i - 1].rstrip()
        return [chunk for chunk in chunks if chunk]

    def _encode_chunk(self, chunk: str) -> list[int]:
        if chunk in self.added:
            return [self.added[chunk]]
        if chunk in self.control:
            return [self.control[chunk]]
        return self.model.encode(chunk)


def load_tokenizer(folder: Path | str, tokens: TokenConfig | None = None) -> Tokenizer:
    """Read a Hugging Face tokenizer folder; added tokens that it lacks are appended in order.

    tokens: the model's ids, checked against the tokenizer's.

    Raises: TokenizerError naming the folder or file that cannot be used, or the ids that differ.
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
    added = _added_ids(model, _recorded_added(folder, settings), folder)
    special = _read_json(folder / "special_tokens_map.json")
    tokenizer = Tokenizer(model, added, _control_strips(special, settings), settings)
    if tokens is not None:
        tokenizer.check(tokens)
    return tokenizer


def _added_ids(
    model: sentencepiece.SentencePieceProcessor, recorded: Mapping[str, int], folder: Path
) -> dict[str, int]:
    """token -> id of all added tokens: the folder's own, then the missing ones of GLaMM's seven."""
    size = model.get_piece_size()
    added = {token: i for token, i in recorded.items() if i >= size}
    if sorted(added.values()) != list(range(size, size + len(added))):
        raise TokenizerError(
            f"{folder}: ids of the added tokens {added} do not follow the {size} pieces one by one"
        )
    for token in ADDED_TOKENS:
        if token not in added:
            piece = model.piece_to_id(token)
            behind = size + sum(i >= size for i in added.values())
            added[token] = piece if piece != model.unk_id() else behind
    return added


def _recorded_added(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Added tokens that the folder lists, in either of Hugging Face's two ways."""
    listed = {str(token): int(i) for token, i in _read_json(folder / "added_tokens.json").items()}
    for i, entry in settings.get("added_tokens_decoder", {}).items():
        listed.setdefault(entry["content"], int(i))
    return listed


def _control_strips(special: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Strip]:
    """White space around control tokens: a bare string in the map strips, an entry says itself."""
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
        raise TokenizerError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _clean_up(text: str) -> str:
    for spaced in CLEAN_UP:
        text = text.replace(spaced, spaced.strip() if spaced != " ' " else "'")
    return text

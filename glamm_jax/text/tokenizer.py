"""LLaMA's tokenizers with added tokens: sentencepiece, as released, and `tokenizer.json`.

Quirk 30: the versions of Hugging Face's tokenizers treat white space around added tokens in
different ways, and the released checkpoints were trained with one of them. It is implemented here
on plain sentencepiece: text is cut at added and control tokens, white space next to an added token
is dropped, and every piece of text between two such tokens is encoded separately, with a dummy
space in front.

A folder without `tokenizer.model` is read from its `tokenizer.json`. Byte-level BPE, which has no
dummy space, keeps white space as it is, except where the file of an added token says otherwise.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sentencepiece
from jaxtyping import Int

from glamm_jax.config import TokenConfig
from glamm_jax.errors import GLaMMWarning
from glamm_jax.json_files import JSONError, JSONObject, read_object, show
from glamm_jax.storage import AnyPath, to_path
from glamm_jax.text.special_tokens import (
    ADDED_TOKENS,
    IMAGE_ID,
    IMAGE_PLACEHOLDER,
    TOKEN_CONFIG_FIELDS,
    token_config,
)
from glamm_jax.text.tokenizer_json import (
    SPACE,
    JSONModel,
    TokenizerError,
    TokenizerFile,
    read_tokenizer_file,
)

PieceModel: TypeAlias = sentencepiece.SentencePieceProcessor | JSONModel

SENTENCEPIECE_FILE, JSON_FILE = "tokenizer.model", "tokenizer.json"
TOKENIZER_FILES = (
    *(SENTENCEPIECE_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *(JSON_FILE, "chat_template.jinja", "generation_config.json"),
)
CONTROL_NAMES = ("bos_token", "eos_token", "unk_token")
# Text whose space Hugging Face removes from decoded English if the folder enables it.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True)
class Strip:
    """The sides of a special token on which white space is removed."""

    left: bool = True
    right: bool = True


class Tokenizer:
    """Converts text to ids and back.

    The ids are those of the model's pieces, followed by those of the added tokens.

    Attributes:
        model: the sentencepiece model, or that of a `tokenizer.json`.
        added: added token -> id.
        control: <unk>, <s> and </s> -> id; of byte-level BPE also the vocabulary's own names.
        bos: id of <s>.
        eos: id of </s>.
        unk: id of <unk>; -1: every text can be encoded.
        pad: id of the padding token.
        continuation: what stands in front of a text that continues a line; "" where the model
            itself puts a space there.
        add_bos: whether `encode` puts <s> in front.
        add_eos: whether `encode` puts </s> behind.
        clean_up: whether `decode` removes the space before punctuation.

    Source: slow LlamaTokenizer of transformers 4.28, with the pad token set to the unknown token.
    Quirk 8: so an unknown character, whose id is 0, is masked as padding.
    """

    def __init__(
        self,
        model: PieceModel,
        added: Mapping[str, int],
        strips: Mapping[str, Strip] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        """Create a tokenizer from its parts. `load_tokenizer` reads them from a folder.

        Args:
            model: converts text without special tokens.
            added: added token -> id.
            strips: where white space next to a special token is removed. By default on both sides
                of an added token, or nowhere for byte-level BPE; nowhere next to a control token.
            settings: content of `tokenizer_config.json`.
        """
        settings = settings or {}
        self.model = model
        self.added = dict(added)
        self.bos, self.eos, self.unk = model.bos_id(), model.eos_id(), model.unk_id()
        self.add_bos = _flag(settings, "add_bos_token", True)
        self.add_eos = _flag(settings, "add_eos_token", False)
        self.clean_up = _flag(settings, "clean_up_tokenization_spaces", True)
        self._keeps_spaces = isinstance(model, JSONModel) and model.is_byte_level
        if isinstance(model, JSONModel):
            self.pad = model.pad
            self.control = {name: i for name, i in model.special.items() if name not in self.added}
            # The chat templates end an answer with </s>, whatever its name in the vocabulary.
            self.control = {"<s>": self.bos, "</s>": self.eos} | self.control
        else:
            self.pad = self.unk
            self.control = {model.id_to_piece(i): i for i in (self.unk, self.bos, self.eos)}
        first = model.encode("a")
        has_space = bool(first) and model.id_to_piece(first[0]).startswith(SPACE)
        self.continuation = "" if has_space else " "
        self._strips = {token: Strip(False, False) for token in self.control}
        if self._keeps_spaces:
            self._strips |= {token: Strip(False, False) for token in self.added}
        self._strips |= dict(strips or {})
        self._added_by_id = {i: token for token, i in self.added.items()}
        special = sorted({*self.control, *self.added}, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    @property
    def size(self) -> int:
        """Number of ids: pieces and added tokens."""
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
        """Decode ids to text; image ids are left out.

        Added tokens are enclosed in spaces, unless the model keeps spaces itself.

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
        text = ("" if self._keeps_spaces else " ").join(runs)
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
                text += " " if i > 0 and not after_control and not self._keeps_spaces else ""
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


def has_tokenizer(folder: AnyPath) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in (SENTENCEPIECE_FILE, JSON_FILE))


def load_tokenizer(folder: AnyPath | str, tokens: TokenConfig | None = None) -> Tokenizer:
    """Read a Hugging Face tokenizer folder; added tokens that it lacks are appended in order.

    The pieces are those of `tokenizer.model`; without that file, those of `tokenizer.json`. Added
    tokens have the ids that any of the folder's files records. Files that contradict each other are
    rejected.

    Args:
        folder: holds `tokenizer.model` or `tokenizer.json`, and optionally the other JSON files.
        tokens: the model's ids, which must equal the tokenizer's; None: not compared.

    Raises:
        TokenizerError: the folder or a file in it cannot be used, or ids differ.
    """
    folder = to_path(str(folder), other_urls=True)
    if not has_tokenizer(folder):
        raise TokenizerError(
            f"{folder / SENTENCEPIECE_FILE}: no such file; a tokenizer folder holds LLaMA's "
            f"{SENTENCEPIECE_FILE}, or the {JSON_FILE} of transformers"
        )
    try:
        tokenizer = _load(folder)
    except JSONError as error:
        raise TokenizerError(str(error)) from error
    if tokens is not None:
        tokenizer.check(tokens)
    return tokenizer


def _load(folder: AnyPath) -> Tokenizer:
    path = folder / JSON_FILE
    file = read_tokenizer_file(path) if path.is_file() else None
    settings = _read_object(folder / "tokenizer_config.json")
    special = _read_object(folder / "special_tokens_map.json")
    model: PieceModel | None = _load_sentencepiece(folder, has_json=file is not None)
    strips = _control_strips(special, settings)
    options = dict(settings.fields)
    if model is not None:
        if file is not None:
            _check_agreement(model, file)
    else:
        assert file is not None
        model = JSONModel(file, _role_names(special, settings))
        ids = {"add_bos_token": (model.bos_id(), 0), "add_eos_token": (model.eos_id(), -1)}
        for name, (token_id, position) in ids.items():
            if options.get(name) is None:
                options[name] = model.adds(token_id, position)
        if options.get("clean_up_tokenization_spaces") is None and model.is_byte_level:
            options["clean_up_tokenization_spaces"] = False
        strips |= {
            token.text: Strip(token.left, token.right)
            for token in file.added
            if model.is_byte_level or token.text in model.special
        }
    added = _added_ids(model, _listed_added_tokens(folder, settings, file), folder)
    return Tokenizer(model, added, strips, options)


def _load_sentencepiece(
    folder: AnyPath, has_json: bool
) -> sentencepiece.SentencePieceProcessor | None:
    """Load `tokenizer.model`; None: there is none, and `tokenizer.json` takes its place."""
    path = folder / SENTENCEPIECE_FILE
    if not path.is_file():
        return None
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load_from_serialized_proto(path.read_bytes())
    except Exception as error:  # sentencepiece raises several kinds
        if not has_json:
            raise TokenizerError(f"{path}: not a sentencepiece model") from error
        # LLaMA 3 has a file of this name in the format of tiktoken.
        message = f"{path}: not a sentencepiece model; {JSON_FILE} is read instead"
        warnings.warn(message, GLaMMWarning, stacklevel=4)
        return None
    return model


def _check_agreement(model: sentencepiece.SentencePieceProcessor, file: TokenizerFile) -> None:
    """Check that both files of a folder have the same pieces with the same ids.

    Raises:
        TokenizerError: they differ; the message names the first difference.
    """
    names = {i: piece for piece, i in file.pieces.items()}
    names |= {token.id: token.text for token in file.added}
    for i in range(model.get_piece_size()):
        piece = model.id_to_piece(i)
        if names.get(i, piece) != piece or i not in names:
            raise TokenizerError(
                f"{file.path}: id {i} is {show(names.get(i))}, but {show(piece)} in "
                f"{SENTENCEPIECE_FILE} beside it: the two files are not of one tokenizer; keep the "
                "one that the model was trained with"
            )


def _role_names(special: JSONObject, settings: JSONObject) -> dict[str, str]:
    """Return the token of each role: bos_token, eos_token, unk_token and pad_token."""
    names = {}
    for role in (*CONTROL_NAMES, "pad_token"):
        for content in (settings, special):
            value = content.value(role, None)
            if isinstance(value, dict):
                value = JSONObject(value, content.place(role)).text("content")
            elif value is not None:
                value = content.text(role)
            if value is not None:
                names.setdefault(role, value)
    return names


def _added_ids(model: PieceModel, listed: Mapping[str, int], folder: AnyPath) -> dict[str, int]:
    """Return the ids of all added tokens: the folder's, then those of GLaMM's seven it lacks."""
    size = model.get_piece_size()
    if isinstance(model, JSONModel):
        added = {t: i for t, i in listed.items() if t in ADDED_TOKENS or t not in model.special}
    else:
        added = {token: i for token, i in listed.items() if i >= size}
    new = sorted(i for i in added.values() if i >= size)
    if new != list(range(size, size + len(new))):
        raise TokenizerError(
            f"{folder}: ids of the added tokens {added} do not follow the {size} pieces one by one"
        )
    for token in ADDED_TOKENS:
        if token not in added:
            piece = model.piece_to_id(token)
            next_id = size + sum(i >= size for i in added.values())
            added[token] = piece if piece not in (model.unk_id(), -1) else next_id
    return added


def _listed_added_tokens(
    folder: AnyPath, settings: JSONObject, file: TokenizerFile | None
) -> dict[str, int]:
    """Return the added tokens that the folder lists, in any of Hugging Face's three places.

    Raises:
        TokenizerError: two places give a token different ids.
    """
    places: dict[str, dict[str, int]] = {}
    path = folder / "added_tokens.json"
    tokens = _read_object(path)
    places[path.name] = {name: tokens.integer(name, minimum=0) for name in tokens.fields}
    entries = settings.object("added_tokens_decoder", None)
    decoder = places["added_tokens_decoder of tokenizer_config.json"] = {}
    for key in entries.fields if entries is not None else ():
        if not key.isdecimal():
            raise TokenizerError(f"{settings.place('added_tokens_decoder')}: {show(key)} is no id")
        assert entries is not None
        decoder[entries.object(key).text("content")] = int(key)
    if file is not None:
        places[JSON_FILE] = {token.text: token.id for token in file.added}
    listed: dict[str, int] = {}
    owner: dict[str, str] = {}
    for place, ids in places.items():
        for token, i in ids.items():
            if listed.setdefault(token, i) != i:
                raise TokenizerError(
                    f"{folder}: {token} is {listed[token]} in {owner[token]}, but {i} in {place}; "
                    "keep the file that the model was trained with"
                )
            owner.setdefault(token, place)
    return listed


def _control_strips(special: JSONObject, settings: JSONObject) -> dict[str, Strip]:
    """Return where white space next to control tokens is removed.

    A token given as a plain string in `special_tokens_map.json` removes it on both sides; one given
    as an object has `lstrip` and `rstrip`.
    """
    strips = {}
    for name in CONTROL_NAMES:
        owner = special if name in special else settings
        entry = owner.value(name, None)
        if isinstance(entry, dict):
            entry = JSONObject(entry, owner.place(name))
            left, right = entry.boolean("lstrip", False), entry.boolean("rstrip", False)
            strips[entry.text("content")] = Strip(left, right)
        elif entry is not None and owner is special:
            strips[owner.text(name)] = Strip()
    return strips


def _flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    value = settings.get(name)
    return default if value is None else bool(value)


def _read_object(path: AnyPath) -> JSONObject:
    """Read an optional file; without it, an empty object."""
    return read_object(path) if path.is_file() else JSONObject({}, str(path))

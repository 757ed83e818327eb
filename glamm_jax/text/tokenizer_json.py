"""The vocabulary and merges of a `tokenizer.json`, the only file that transformers 5 saves.

Two kinds are supported. LLaMA's sentencepiece models that transformers has converted give the ids
of sentencepiece. Byte-level BPE (LLaMA 3, SmolLM2) gives those of the `tokenizers` library.
Special and added tokens are left to `glamm_jax.text.tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glamm_jax.errors import GLaMMError
from glamm_jax.json_files import JSONError, JSONObject, read_object, show
from glamm_jax.storage import AnyPath

SPACE = "\u2581"  # sentencepiece's mark of a space
MODELS = ("BPE", "Unigram")
MAX_ID = 1 << 24


class TokenizerError(GLaMMError):
    """A tokenizer folder that cannot be used, or whose ids are not those of the model."""


class AddedToken(NamedTuple):
    """An entry of `added_tokens`.

    Attributes:
        text: of the token.
        id: its id.
        special: whether it is a control token, which texts do not contain.
        left: whether white space in front of it is removed.
        right: whether white space behind it is removed.
    """

    text: str
    id: int
    special: bool
    left: bool
    right: bool


class TokenizerFile(NamedTuple):
    """A `tokenizer.json`, parsed and checked.

    Attributes:
        path: of the file.
        content: of the file.
        pieces: piece -> id, without added tokens.
        added: added tokens, in the order of the file.
    """

    path: AnyPath
    content: JSONObject
    pieces: dict[str, int]
    added: tuple[AddedToken, ...]


def read_tokenizer_file(path: AnyPath) -> TokenizerFile:
    """Read a `tokenizer.json`.

    Raises:
        TokenizerError: it is missing or invalid, or its model is of another kind.
    """
    try:
        content = read_object(path)
        pieces = _read_pieces(content.object("model"))
        added = tuple(
            AddedToken(
                entry.text("content"),
                entry.integer("id", minimum=0, maximum=MAX_ID),
                entry.boolean("special", False),
                entry.boolean("lstrip", False),
                entry.boolean("rstrip", False),
            )
            for entry in content.objects("added_tokens")
        )
    except JSONError as error:
        raise TokenizerError(str(error)) from error
    names = {i: piece for piece, i in pieces.items()}
    ids: dict[str, int] = {}
    for token in added:
        if not token.text:
            raise TokenizerError(f"{path}: added_tokens: the token of id {token.id} is empty")
        if ids.setdefault(token.text, token.id) != token.id:
            first = ids[token.text]
            raise TokenizerError(f"{path}: added_tokens: {token.text} has ids {first}, {token.id}")
        if names.setdefault(token.id, token.text) != token.text:
            raise TokenizerError(
                f"{path}: id {token.id} is {show(names[token.id])} and {show(token.text)}"
            )
    return TokenizerFile(path, content, pieces, added)


def _read_pieces(model: JSONObject) -> dict[str, int]:
    kind = model.text("type", "BPE" if "merges" in model else "without type")
    if kind not in MODELS:
        raise JSONError(
            f"{model.place('type')} = {show(kind)}: not a tokenizer of LLaMA; supported are "
            f"{' and '.join(MODELS)}"
        )
    if kind == "Unigram":
        rows = model.array("vocab")
        if not all(isinstance(row, list) and row and isinstance(row[0], str) for row in rows):
            raise JSONError(f"{model.place('vocab')}: expected a list of [piece, score]")
        return {row[0]: i for i, row in enumerate(rows)}
    if "dropout" in model and model.number("dropout") > 0:
        raise JSONError(f"{model.place('dropout')}: the same text would get random ids; remove it")
    vocabulary = model.object("vocab")
    pieces = {
        piece: vocabulary.integer(piece, minimum=0, maximum=MAX_ID) for piece in vocabulary.fields
    }
    if len(set(pieces.values())) != len(pieces):
        raise JSONError(f"{model.place('vocab')}: two pieces have the same id")
    return pieces


class JSONModel:
    """The pieces of a `tokenizer.json`, with the interface of a SentencePieceProcessor.

    Attributes:
        is_byte_level: whether white space is kept exactly; otherwise the model is sentencepiece's.
        special: control token -> id: unk, bos and eos; of byte-level BPE all that the file marks.
        pad: id of the padding token, which no text contains.
    """

    def __init__(self, file: TokenizerFile, names: Mapping[str, str]):
        """Create the model.

        Args:
            file: the parsed file.
            names: token by its role: bos_token, eos_token, unk_token, pad_token.

        Raises:
            TokenizerError: the library rejects the file, or a token that is needed is missing.
        """
        self.path = file.path
        self._ids = file.pieces | {token.text: token.id for token in file.added}
        self._pieces = {i: piece for piece, i in self._ids.items()}
        content = dict(file.content.fields)
        self.is_byte_level = _uses(content.get("pre_tokenizer"), "ByteLevel") or _uses(
            content.get("decoder"), "ByteLevel"
        )
        if not self.is_byte_level:
            _use_sentencepiece_spaces(content, str(file.path))
        self._tokenizer = _build(content | {"added_tokens": []}, file.path)
        self._eos = self._role(names, "eos_token")
        if self._eos is None:
            raise TokenizerError(
                f"{file.path.parent}: no file names the eos_token; add it to tokenizer_config.json"
            )
        self._bos, self._unk = self._role(names, "bos_token"), self._role(names, "unk_token")
        roles = (self._unk, self._bos, self._eos)
        self.special = {self._pieces[i]: i for i in roles if i is not None}
        if self.is_byte_level:
            self.special |= {token.text: token.id for token in file.added if token.special}
        self.pad = self._find_pad(names)

    def _role(self, names: Mapping[str, str], role: str) -> int | None:
        token = names.get(role)
        if token is not None and token not in self._ids:
            raise TokenizerError(f"{self.path}: no token {show(token)}, which is the {role}")
        return None if token is None else self._ids[token]

    def _find_pad(self, names: Mapping[str, str]) -> int:
        """Choose the padding token: it must differ from the tokens that answers contain."""
        if not self.is_byte_level and self._unk is not None:
            return self._unk  # quirk 8
        used = {self._bos, self._eos}
        for i in (self._role(names, "pad_token"), self._unk):
            if i is not None and i not in used:
                return i
        for mark in ("pad", "reserved"):
            for token, i in self.special.items():
                if mark in token and i not in used:
                    return i
        raise TokenizerError(
            f"{self.path.parent}: no token for padding that differs from the beginning and the end "
            "of texts; name a token that no text contains as pad_token in tokenizer_config.json"
        )

    def adds(self, token_id: int, position: int) -> bool:
        """Whether the library puts a token at this position (0 or -1) of every text."""
        ids = self._tokenizer.encode("a").ids
        return len(ids) > 1 and ids[position] == token_id

    def encode(self, text: str) -> list[int]:
        """Encode a text without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode_pieces(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces."""
        return self._tokenizer.decoder.decode(list(pieces)) if pieces else ""

    def get_piece_size(self) -> int:
        """Return the number of ids, those of added tokens included."""
        return 1 + max(self._pieces)

    def id_to_piece(self, token_id: int) -> str:
        """Return the piece of an id; an id that no piece has is an empty text."""
        return self._pieces.get(token_id, "")

    def piece_to_id(self, piece: str) -> int:
        """Return the id of a piece, that of the unknown token if there is none, else -1."""
        return self._ids.get(piece, self.unk_id())

    def bos_id(self) -> int:
        """Return the id of the token that begins a text; without one, that of its end."""
        return self.eos_id() if self._bos is None else self._bos

    def eos_id(self) -> int:
        """Return the id of the token that ends a text."""
        assert self._eos is not None
        return self._eos

    def unk_id(self) -> int:
        """Return the id of the unknown token; -1: there is none."""
        return -1 if self._unk is None else self._unk


def _uses(part: Any, kind: str) -> bool:
    """Whether a part of the pipeline, or a part of a sequence of them, is of a kind."""
    if isinstance(part, list):
        return any(_uses(item, kind) for item in part)
    if not isinstance(part, dict):
        return False
    nested = (part.get(key) for key in ("pretokenizers", "normalizers", "decoders"))
    return part.get("type") == kind or any(_uses(item, kind) for item in nested)


def _use_sentencepiece_spaces(content: dict[str, Any], where: str) -> None:
    """Replace white space as sentencepiece does: a mark in front of every text, also before " ".

    The library has two ways, and newer files have the one that adds no mark in front of a space.
    """
    normalizer, pre_tokenizer = content.get("normalizer"), content.get("pre_tokenizer")
    if not isinstance(normalizer, dict | None) or not isinstance(pre_tokenizer, dict | None):
        raise TokenizerError(f"{where}: normalizer and pre_tokenizer must be objects or null")
    steps: list[Any] = [normalizer]
    if normalizer is not None and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers") or []
    steps = [step for step in steps if isinstance(step, dict)]
    kept = [step for step in steps if not _is_space_step(step)]
    prepends = any(step.get("type") == "Prepend" for step in steps)
    if pre_tokenizer is not None:
        if pre_tokenizer.get("type") != "Metaspace":
            raise TokenizerError(
                f"{where}: pre_tokenizer of type {show(pre_tokenizer.get('type'))}: not a "
                "tokenizer of LLaMA; supported are ByteLevel, and Metaspace of sentencepiece"
            )
        scheme = pre_tokenizer.get("prepend_scheme", "always")
        prepends |= pre_tokenizer.get("add_prefix_space", scheme != "never") is True
        content["pre_tokenizer"] = pre_tokenizer | {"prepend_scheme": "never"}
        content["pre_tokenizer"].pop("add_prefix_space", None)
    elif len(kept) == len(steps):
        raise TokenizerError(
            f"{where}: not a tokenizer of LLaMA: neither byte-level nor sentencepiece"
        )
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    kept += [{"type": "Prepend", "prepend": SPACE}] * prepends + [spaces]
    content["normalizer"] = {"type": "Sequence", "normalizers": kept}


def _is_space_step(step: Mapping[str, Any]) -> bool:
    replaces = step.get("type") == "Replace" and step.get("content") == SPACE
    return replaces or step.get("type") == "Prepend"


def _build(content: Mapping[str, Any], path: AnyPath) -> Any:
    """Build the library's tokenizer; its own errors, and panics of its Rust code, get a name."""
    import tokenizers

    text = json.dumps({**content, "truncation": None, "padding": None})
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.encode("a")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is not an Exception
        raise TokenizerError(f"{path}: the tokenizers library cannot use it: {error}") from error
    if tokenizer.decoder is None:
        raise TokenizerError(f"{path}: no decoder, so ids cannot be turned into text")
    return tokenizer

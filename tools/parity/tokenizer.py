"""The part `tokenizer`: pieces, scores and settings, as `load_tokenizer` reads them."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tools.parity.recorded_folder import entry_errors, part_folder, report_unknown_files
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

PART = "tokenizer"
FILES = ("tokenizer.model", "tokenizer.vocab", "tokenizer_config.json", "special_tokens_map.json")
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special", "__type")


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare the files of `folder/tokenizer` with the tokenizer that is loaded from it.

    Its encodings are recorded, and compared, in the part `conversations`.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: a file is absent or cannot be read.
    """
    part = part_folder(folder, PART)
    tokenizer = open_tokenizer(folder)
    _check_vocabulary(part / "tokenizer.vocab", tokenizer, report)
    both = [RecordedFile.open(report, PART, part / file) for file in FILES[2:]]
    for recorded, other in zip(both, reversed(both), strict=True):
        with entry_errors(folder / recorded.file), recorded:
            _check_settings(recorded, other, tokenizer)
    report_unknown_files(report, PART, part, {*FILES, "added_tokens.json"})
    if (part / "added_tokens.json").is_file():
        with RecordedFile.open(report, PART, part / "added_tokens.json") as recorded:
            for token in recorded.names:
                recorded.compare(token, tokenizer.added.get(token), "exact")


def open_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a golden folder.

    Raises:
        GoldenError: a file is absent or cannot be read.
    """
    try:
        return load_tokenizer(part_folder(folder, PART))
    except TokenizerError as error:
        raise GoldenError(str(error)) from error


def _check_vocabulary(path: Path, tokenizer: Tokenizer, report: ComparisonReport) -> None:
    """Compare pieces and scores, as one array each so that the report stays short."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
        recorded = {"pieces": [row[0] for row in rows], "scores": [float(row[1]) for row in rows]}
    except (OSError, ValueError, IndexError) as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error
    model = tokenizer.model
    if not isinstance(model, sentencepiece.SentencePieceProcessor):
        raise GoldenError(f"{path.parent}: its tokenizer is not of sentencepiece")
    ids = range(model.get_piece_size())
    with RecordedFile(report, PART, f"{PART}/{path.name}", recorded) as vocabulary:
        pieces = [model.id_to_piece(i) for i in ids]
        vocabulary.compare("pieces", pieces, "exact")
        # The file has six digits.
        scores = [float(f"{model.get_score(i):g}") for i in ids]
        vocabulary.compare("scores", scores, "exact")


def _check_settings(recorded: RecordedFile, other: RecordedFile, tokenizer: Tokenizer) -> None:
    """Compare control tokens with the pieces of their ids, and the two files with each other."""
    piece = tokenizer.model.id_to_piece
    control = {
        "bos_token": piece(tokenizer.bos),
        "eos_token": piece(tokenizer.eos),
        "unk_token": piece(tokenizer.unk),
    }
    for name, token in control.items():
        for key in (name, f"{name}.content"):
            if key in recorded:
                recorded.compare(key, token, "exact")
    for name in TOKENS:
        for flag in FLAGS:
            _check_flag(recorded, other, f"{name}.{flag}")
    # quirk 31: label masking requires <s> in front of a text and no </s> behind it.
    for name, value in (("add_bos_token", True), ("add_eos_token", False)):
        if name in recorded:
            recorded.compare(name, value, "exact")
    recorded.exclude("clean_up_tokenization_spaces", "input; recorded decodings show its effect")
    if "pad_token" in recorded:
        # quirk 8: the original's scripts set it to the unknown token after loading.
        recorded.compare("pad_token", None, "exact")
    if "tokenizer_class" in recorded:
        recorded.compare("tokenizer_class", "LlamaTokenizer", "exact")
    recorded.exclude("sp_model_kwargs", "settings of sentencepiece; not used")
    recorded.exclude("model_max_length", "set by each script, not by the folder")
    recorded.exclude_prefix("added_tokens_decoder", "input: ids of added tokens")


def _check_flag(recorded: RecordedFile, other: RecordedFile, key: str) -> None:
    """Compare a flag of a control token with the other file if that has it, else exclude it."""
    if key in recorded and key in other:
        recorded.compare(key, other.get(key), "exact")
    elif key in recorded and key.endswith("__type"):
        recorded.compare(key, "AddedToken", "exact")
    else:
        recorded.exclude(key, "input: a flag of a control token")

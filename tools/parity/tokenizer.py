"""The part `tokenizer`: the folder's pieces, scores and settings as our reader sees them."""

from __future__ import annotations

from pathlib import Path

from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tools.parity.recorded_folder import entry_errors, part_folder, report_unknown_files
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

PART = "tokenizer"
FILES = ("tokenizer.model", "tokenizer.vocab", "tokenizer_config.json", "special_tokens_map.json")
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special", "__type")


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare the files of `folder/tokenizer` with the tokenizer that we load from it.

    How it encodes is compared in the part `conversations`, where the encodings are recorded.

    Raises: GoldenError naming what is absent or broken.
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
    """The tokenizer of a golden folder.

    Raises: GoldenError naming the file that is absent or broken.
    """
    try:
        return load_tokenizer(part_folder(folder, PART))
    except TokenizerError as error:
        raise GoldenError(str(error)) from error


def _check_vocabulary(path: Path, tokenizer: Tokenizer, report: ComparisonReport) -> None:
    """One row a piece would hide the rest of the report, so one for pieces and one for scores."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
        recorded = {"pieces": [row[0] for row in rows], "scores": [float(row[1]) for row in rows]}
    except (OSError, ValueError, IndexError) as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error
    ids = range(tokenizer.model.get_piece_size())
    with RecordedFile(report, PART, f"{PART}/{path.name}", recorded) as vocabulary:
        pieces = [tokenizer.model.id_to_piece(i) for i in ids]
        vocabulary.compare("pieces", pieces, "exact")
        # Printed with six digits.
        scores = [float(f"{tokenizer.model.get_score(i):g}") for i in ids]
        vocabulary.compare("scores", scores, "exact")


def _check_settings(recorded: RecordedFile, other: RecordedFile, tokenizer: Tokenizer) -> None:
    """Control tokens are the pieces of their ids, and both files describe them alike."""
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
    # Label masking counts on <s> in front and nothing behind (trap 31).
    for name, value in (("add_bos_token", True), ("add_eos_token", False)):
        if name in recorded:
            recorded.compare(name, value, "exact")
    recorded.exclude("clean_up_tokenization_spaces", "input; recorded decodings show its effect")
    if "pad_token" in recorded:
        # The scripts set it to the unknown token after loading (trap 8).
        recorded.compare("pad_token", None, "exact")
    if "tokenizer_class" in recorded:
        recorded.compare("tokenizer_class", "LlamaTokenizer", "exact")
    recorded.exclude("sp_model_kwargs", "settings of sentencepiece; none are read")
    recorded.exclude("model_max_length", "set by each script, not by the folder")
    recorded.exclude_prefix("added_tokens_decoder", "input: ids of added tokens")


def _check_flag(recorded: RecordedFile, other: RecordedFile, key: str) -> None:
    """A switch of a control token: the same in the other file where that has it."""
    if key in recorded and key in other:
        recorded.compare(key, other.get(key), "exact")
    elif key in recorded and key.endswith("__type"):
        recorded.compare(key, "AddedToken", "exact")
    else:
        recorded.exclude(key, "input: a switch of a control token")

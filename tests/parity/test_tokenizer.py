"""The part `tokenizer` agrees with the recording, and every change of it is detected."""

from __future__ import annotations

import json

import pytest

from tests.parity.tampering import change_json, copy_parts, failed_names, run
from tools.parity import tokenizer
from tools.parity.report import GoldenError


@pytest.fixture
def folder(goldens, tmp_path):
    return copy_parts(goldens, tmp_path, "tokenizer")


def test_pieces_scores_and_settings_agree(goldens):
    report = run(tokenizer.check, goldens)
    assert report.failures == []
    assert {"pieces", "scores"} <= {row.name for row in report.rows if row.verdict == "equal"}


@pytest.mark.parametrize(("column", "reported"), [(0, "pieces"), (1, "scores")])
def test_one_changed_piece_or_score_is_detected(folder, column, reported):
    path = folder / "tokenizer" / "tokenizer.vocab"
    lines = path.read_text(encoding="utf-8").split("\n")
    row = lines[400].split("\t")
    row[column] = row[0] + "x" if column == 0 else str(float(row[1]) + 1e-2)
    lines[400] = "\t".join(row)
    path.write_text("\n".join(lines), encoding="utf-8")
    assert failed_names(tokenizer.check, folder) == {reported}


@pytest.mark.parametrize(
    ("file", "keys", "reported"),
    [
        ("tokenizer_config", ("bos_token", "content"), "bos_token.content"),
        ("tokenizer_config", ("add_bos_token",), "add_bos_token"),
        ("tokenizer_config", ("tokenizer_class",), "tokenizer_class"),
        ("special_tokens_map", ("unk_token", "content"), "unk_token.content"),
        ("special_tokens_map", ("eos_token", "content"), "eos_token.content"),
    ],
)
def test_one_changed_setting_is_detected(folder, file, keys, reported):
    change_json(folder / "tokenizer" / f"{file}.json", keys)
    assert reported in failed_names(tokenizer.check, folder)


def test_a_changed_flag_is_detected(folder):
    path = folder / "tokenizer" / "special_tokens_map.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["eos_token"]["lstrip"] = not content["eos_token"]["lstrip"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "eos_token.lstrip" in failed_names(tokenizer.check, folder)


def test_an_absent_or_broken_model_is_named(folder):
    path = folder / "tokenizer" / "tokenizer.model"
    path.write_bytes(b"broken")
    with pytest.raises(GoldenError, match=r"tokenizer\.model"):
        run(tokenizer.check, folder)
    path.unlink()
    with pytest.raises(GoldenError, match=r"tokenizer\.model"):
        run(tokenizer.check, folder)

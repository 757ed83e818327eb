"""The part `conversations` agrees with the recording, and every change of it is detected."""

from __future__ import annotations

import pytest

from tests.parity.tampering import change_json, copy_parts, failed_names, run
from tools.parity import conversations
from tools.parity.report import GoldenError


@pytest.fixture
def folder(goldens, tmp_path):
    return copy_parts(goldens, tmp_path, "tokenizer", "conversations")


def test_templates_encodings_batches_prompts_and_answers_agree(goldens):
    report = run(conversations.check, goldens)
    assert report.failures == []
    assert sum(row.verdict == "equal" for row in report.rows) > 400


@pytest.mark.parametrize(
    ("file", "keys", "reported"),
    [
        ("conversation_templates", ("llava_v1", "prompt"), "llava_v1.prompt"),
        ("conversation_templates", ("plain", "prompt"), "plain.prompt"),
        ("conversation_templates", ("mpt", "roles", 1), "mpt.roles"),
        ("conversation_templates", ("v0", "sep_style"), "v0.sep_style"),
        ("tokenizer_golden", ("added", "[SEG]"), "added.[SEG]"),
        ("tokenizer_golden", ("encodings", 7, "ids", 1), "encodings[7].ids"),
        ("tokenizer_golden", ("encodings", 9, "decoded"), "encodings[9].decoded"),
        (
            "tokenizer_golden",
            ("image_token_encodings", 2, "ids", 2),
            "image_token_encodings[2].ids",
        ),
        ("inference_golden", ("gcg_instruction",), "gcg_instruction"),
        ("inference_golden", ("outputs", 1, "gcg", "ids", 3), "outputs[1].gcg.ids"),
        ("inference_golden", ("outputs", 0, "gcg", "phrases", 1), "outputs[0].gcg.phrases"),
        ("inference_golden", ("outputs", 2, "region", "cleaned"), "outputs[2].region.cleaned"),
        (
            "inference_golden",
            ("outputs", 0, "region", "bboxes", 0, 0, 2),
            "outputs[0].region.bboxes",
        ),
        (
            "inference_golden",
            ("outputs", 0, "region", "bbox_dtype"),
            "outputs[0].region.bbox_dtype",
        ),
        ("inference_golden", ("outputs", 0, "gcg", "orig", 0, 1), "outputs[0].gcg.orig"),
        ("inference_golden", ("outputs", 0, "gcg", "resize", 0, 1), "outputs[0].gcg.resize"),
        ("collate_golden", ("entries", 3, "labels", 0, 90), "entries[3].labels"),
        ("collate_golden", ("entries", 0, "input_ids", 1, 5), "entries[0].input_ids"),
        ("collate_golden", ("entries", 0, "attention_masks", 1, 5), "entries[0].attention_masks"),
        ("collate_golden", ("entries", 5, "conversation_list", 1), "entries[5].conversation_list"),
        ("collate_golden", ("entries", 4, "questions", 0, 2), "entries[4].questions"),
        ("collate_golden", ("entries", 18, "labels", 0, 3), "entries[18].labels"),
        ("collate_golden", ("answer_list", 2), "answer_list"),
        ("collate_golden", ("unk_in_text",), "unk_in_text"),
    ],
    ids=str,
)
def test_one_changed_entry_is_detected(folder, file, keys, reported):
    change_json(folder / "conversations" / f"{file}.json", keys)
    assert failed_names(conversations.check, folder) == {reported}


def test_encodings_of_another_tokenizer_are_detected(folder):
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<p>": 800}', encoding="utf-8")
    assert "added.<p>" in failed_names(conversations.check, folder)


@pytest.mark.parametrize("file", conversations.FILES)
def test_an_absent_or_broken_file_is_named(folder, file):
    (folder / "conversations" / file).write_text('{"half":', encoding="utf-8")
    with pytest.raises(GoldenError, match=file):
        run(conversations.check, folder)
    (folder / "conversations" / file).unlink()
    with pytest.raises(GoldenError, match=file):
        run(conversations.check, folder)


def test_an_entry_of_the_wrong_type_is_named(folder):
    path = folder / "conversations" / "collate_golden.json"
    path.write_text('{"entries": [{"conversations": 7}]}', encoding="utf-8")
    with pytest.raises(GoldenError, match="collate_golden"):
        run(conversations.check, folder)


def test_conversations_without_a_tokenizer_name_the_folder(folder):
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(GoldenError, match="tokenizer: no such folder"):
        run(conversations.check, folder)

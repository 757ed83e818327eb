"""The part `conversations`: templates, encodings, collated ids and labels, prompts and answers."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.config import CLIPConfig, SAMConfig
from glamm_jax.data import boxes as box_module
from glamm_jax.data import preprocess
from glamm_jax.text import answer_parser, questions
from glamm_jax.text.chat_template import RELEASED_TEMPLATE, TEMPLATES, TemplateError
from glamm_jax.text.label_spans import LabelError, encode_turns
from glamm_jax.text.prompt import build_prompt
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_PLACEHOLDER
from glamm_jax.text.tokenizer import Tokenizer, TokenizerError
from tools.parity.recorded_folder import (
    entry_errors,
    integer_input,
    part_folder,
    report_unknown_files,
)
from tools.parity.report import ComparisonReport, RecordedFile
from tools.parity.tokenizer import open_tokenizer

PART = "conversations"
FILES = (
    "conversation_templates.json",
    "tokenizer_golden.json",
    "inference_golden.json",
    "collate_golden.json",
)
# The turns with which the templates were recorded.
TURNS = ("Q one?", "A one.", "Q two?", None)
# quirk 32: training truncates rows to the context minus the tokens that one image adds.
IMAGE_GROWTH = CLIPConfig().num_patches - 1


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare everything recorded in `folder/conversations`, with the tokenizer of the folder.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: a file is absent or cannot be read.
    """
    part = part_folder(folder, PART)
    tokenizer = open_tokenizer(folder)
    cases = (_check_templates, _check_encodings, _check_inference, _check_collate)
    for file, case in zip(FILES, cases, strict=True):
        with entry_errors(part / file), RecordedFile.open(report, PART, part / file) as recorded:
            case(recorded, tokenizer)
    report_unknown_files(report, PART, part, FILES)


def _entries(recorded: RecordedFile, pattern: str) -> list[str]:
    """Return the distinct starts of the names that match, in order."""
    matches = (re.match(pattern, name) for name in recorded.names)
    return list(dict.fromkeys(match.group() for match in matches if match))


def _check_templates(recorded: RecordedFile, _: Tokenizer) -> None:
    for name in _entries(recorded, r"[^.]+"):
        if name not in TEMPLATES:
            continue  # its entries are reported as unknown
        template = TEMPLATES[name]
        fields = {
            "prompt": _render(name),
            "sep": template.separator,
            "sep2": template.second_separator,
            "roles": template.roles,
            "version": template.version,
            "sep_style": template.style.upper(),
        }
        for field, value in fields.items():
            recorded.compare(f"{name}.{field}", value, "exact")


def _render(name: str) -> str:
    """Render the turns. If the template fails, return its underlying error as it was recorded."""
    try:
        return TEMPLATES[name].render(TURNS)
    except TemplateError as error:
        return f"ERROR {error.__cause__!r}"


def _check_encodings(recorded: RecordedFile, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.tokens
    single = {
        "size": tokenizer.size,
        "sp_size": tokenizer.model.get_piece_size(),
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "unk": tokenizer.unk,
        "pad": tokenizer.pad,
        "bbox": tokens.region,
        "seg": tokens.seg,
        "bop": tokens.phrase_start,
        "eop": tokens.phrase_end,
    }
    for name, value in single.items():
        recorded.compare(name, value, "exact")
    for name in recorded.names_under("added."):
        recorded.compare(name, tokenizer.added.get(name.removeprefix("added.")), "exact")
    for entry in _entries(recorded, r"encodings\[\d+\]"):
        text = recorded.input(f"{entry}.text")
        ids = [int(i) for i in recorded.get(f"{entry}.ids")]
        recorded.compare(f"{entry}.ids", tokenizer.encode(text), "exact")
        plain = tokenizer.encode(text, add_special=False)
        recorded.compare(f"{entry}.ids_no_special", plain, "exact")
        recorded.compare(f"{entry}.decoded", _decode(tokenizer, ids), "exact")
        skipped = _decode(tokenizer, ids, skip_control=True)
        recorded.compare(f"{entry}.decoded_skip_special", skipped, "exact")
    for entry in _entries(recorded, r"image_token_encodings\[\d+\]"):
        text = recorded.input(f"{entry}.text")
        recorded.compare(f"{entry}.ids", tokenizer.encode_with_images(text), "exact")
    recorded.exclude("settings", "prose")


def _decode(tokenizer: Tokenizer, ids: list[int], skip_control: bool = False) -> str:
    try:
        return tokenizer.decode(ids, skip_control)
    except TokenizerError as error:
        return f"ERROR {error}"


def _check_inference(recorded: RecordedFile, tokenizer: Tokenizer) -> None:
    recorded.compare("gcg_instruction", questions.GCG_INSTRUCTION, "exact")
    for entry in _entries(recorded, r"outputs\[\d+\]"):
        generated = recorded.input(f"{entry}.generated_text")
        for task, question in (
            ("gcg", questions.GCG_INSTRUCTION),
            ("region", questions.REGION_INSTRUCTION),
        ):
            if recorded.names_under(f"{entry}.{task}."):
                _check_output(recorded, f"{entry}.{task}", question, tokenizer, generated)
    recorded.exclude("note", "prose")


def _check_output(
    recorded: RecordedFile, case: str, question: str, tokenizer: Tokenizer, generated: str
) -> None:
    num_regions = question.count("<bbox>")
    prompt = build_prompt(question, tokenizer, num_regions=num_regions)
    recorded.compare(f"{case}.ids", prompt.ids, "exact")
    sizes = np.atleast_2d(integer_input(recorded, f"{case}.orig"))
    resized = [preprocess.grounding_size(h, w, SAMConfig().image_size) for h, w in sizes.tolist()]
    recorded.compare(f"{case}.resize", resized, "exact")
    recorded.compare(f"{case}.max_new", questions.MAX_NEW_TOKENS, "exact")
    _check_output_boxes(recorded, case, sizes)
    generated_ids = tokenizer.encode(generated, add_special=False)
    decoded = tokenizer.decode([*prompt.ids.tolist(), *generated_ids])
    original = answer_parser.last_answer(decoded)
    answer = answer_parser.parse_answer(original, keep_spaces=True)
    recorded.compare(f"{case}.cleaned", answer.text, "exact")
    if f"{case}.phrases" in recorded:
        phrases = [phrase.text for phrase in answer.phrases]
        recorded.compare(f"{case}.phrases", phrases, "exact")


def _check_output_boxes(recorded: RecordedFile, case: str, sizes: np.ndarray) -> None:
    """Compare unit boxes after conversion to pixels and back; pixel boxes are not recorded."""
    boxes = recorded.get(f"{case}.bboxes")
    if not isinstance(boxes, list) or not boxes:
        recorded.compare(f"{case}.bboxes", None, "exact")
        recorded.compare(f"{case}.bbox_dtype", None, "exact")
        return
    converted = []
    for unit, (height, width) in zip(boxes, sizes.tolist(), strict=False):
        pixel = box_module.as_boxes(unit) * [width, height, width, height]
        converted.append(box_module.round_like_original(box_module.to_unit(pixel, height, width)))
    recorded.compare(f"{case}.bboxes", np.asarray(converted, np.float64), "box")
    recorded.compare(f"{case}.bbox_dtype", f"torch.{converted[0].dtype}", "exact")


def _check_collate(recorded: RecordedFile, tokenizer: Tokenizer) -> None:
    recorded.compare("answer_list", questions.SEGMENTATION_ANSWERS, "exact")
    num_answers = len(questions.SEGMENTATION_ANSWERS)
    recorded.compare("template_counts.segm_answers", num_answers, "exact")
    recorded.exclude_prefix("template_counts.", "this library has paraphrases of its own")
    recorded.exclude("choice_rule", "prose")
    # quirk 8: an unknown token in the text makes label masking fail; the original asserts.
    try:
        encode_turns(["Q", "an <unk> answer"], tokenizer)
        failure = "no failure"
    except LabelError:
        failure = "AssertionError "
    recorded.compare("unk_in_text", failure, "exact")
    for entry in _entries(recorded, r"entries\[\d+\]"):
        _check_collated(recorded, entry, tokenizer)


def _check_collated(recorded: RecordedFile, entry: str, tokenizer: Tokenizer) -> None:
    conversations = recorded.get(f"{entry}.conversations")
    rendered = [RELEASED_TEMPLATE.render(_turns(text)) for text in conversations]
    recorded.compare(f"{entry}.conversations", rendered, "exact")
    full = [text.replace(IMAGE_PLACEHOLDER, questions.IMAGE_TOKENS) for text in conversations]
    ids, labels = _encode_padded(full, tokenizer)
    if not recorded.values.get(f"{entry}.inference", True):
        limit = int(integer_input(recorded, f"{entry}.model_max_length"))
        ids, labels = ids[:, : limit - IMAGE_GROWTH], labels[:, : limit - IMAGE_GROWTH]
    recorded.compare(f"{entry}.input_ids", ids, "exact")
    recorded.compare(f"{entry}.labels", labels, "exact")
    recorded.compare(f"{entry}.attention_masks", (ids != tokenizer.pad).astype(int), "exact")
    if f"{entry}.conversation_list" in recorded:
        recorded.compare(f"{entry}.conversation_list", full, "exact")
    if f"{entry}.questions" in recorded:
        _check_questions(recorded, entry, conversations)
    recorded.exclude(f"{entry}.task", "name of the case")
    recorded.exclude(f"{entry}.k", "which paraphrase was sampled; questions come from the folder")
    recorded.exclude(f"{entry}.inference", "input")
    recorded.exclude(f"{entry}.model_max_length", "input; inference does not truncate")


def _check_questions(recorded: RecordedFile, entry: str, conversations: list[str]) -> None:
    """Check that every recorded question is in the conversation of its image, one for each."""
    rows = recorded.get(f"{entry}.questions")
    pairs = zip(rows, conversations, strict=False)
    present = [[text for text in row if text in conversation] for row, conversation in pairs]
    recorded.compare(f"{entry}.questions", present, "exact")
    if f"{entry}.offset" in recorded:
        counts = [1] * len(conversations)
        recorded.compare(f"{entry}.offset", [0, *accumulate(counts)], "exact")


def _turns(conversation: str) -> list[str]:
    """Split a conversation at the template's marks; a round without an answer is one turn."""
    template = RELEASED_TEMPLATE
    body = conversation.removeprefix(template.system + template.separator)
    turns: list[str] = []
    for round_text in filter(None, body.split(template.second_separator)):
        question, mark, answer = round_text.partition(template.answer_mark)
        turns += [question.removeprefix(f"{template.roles[0]}: "), answer] if mark else [question]
    return turns


def _encode_padded(conversations: list[str], tokenizer: Tokenizer) -> tuple[Any, Any]:
    """Return ids and labels of a batch, padded on the right."""
    rows = [encode_turns(_turns(text), tokenizer) for text in conversations]
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), tokenizer.pad, np.int32)
    labels = np.full((len(rows), width), IGNORE_ID, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], labels[i, : len(row.ids)] = row
    return ids, labels

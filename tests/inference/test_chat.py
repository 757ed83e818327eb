"""The assistant: many questions at once, each answered as if alone, in words and masks.

The golden tiny model speaks noise, but always the same; so the tokenizer of these tests calls the
tokens that it says <p>, </p>, [SEG] and </s>, and its noise becomes grounded answers.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import tiny
from glamm_jax.data.boxes import BoxError
from glamm_jax.data.preprocess import ImageError
from glamm_jax.errors import FolderError
from glamm_jax.inference.answer import Answer
from glamm_jax.inference.answer_rows import QuestionError
from glamm_jax.inference.chat import Assistant, Question, load
from glamm_jax.inference.sampling import SamplingError
from glamm_jax.parallel import make_mesh
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from glamm_jax.types import BatchShape
from glamm_jax.weights.config_file import write_config
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.folder import finish_folder
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter
from tools.parity.golden_model import golden_glamm

SPOKEN = {"<p>": 685, "</p>": 674, "[SEG]": 37}
END = 439
PHRASE, SEG = "<p> the roof </p> [SEG]", "[SEG]"
GIVEN = "It is <p> a wall </p> [SEG]."


def picture(seed: int, height: int = 18, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SHARED = picture(2)
QUESTIONS = (
    Question(SHARED, "Describe the picture.", max_tokens=20),
    Question(picture(1, 30, 20), f"Where are {PHRASE} and {SEG}?", max_tokens=20),
    Question(SHARED, "Say a b c.", max_tokens=3),
    Question(picture(4), "Is it red?", max_tokens=20),
    Question(
        picture(5), "And region2 <bbox>?", [[2, 2, 9, 9], [4, 1, 20, 12]],
        [("Where is region1 <bbox> [SEG]?", GIVEN)], max_tokens=18,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    plain = load_tokenizer(goldens / "tokenizer")
    spoken = Tokenizer(plain.model, plain.added | SPOKEN)
    spoken.eos, spoken.control = END, plain.control | {"</s>": END}
    return spoken


@pytest.fixture(scope="module")
def assistant(tokenizer: Tokenizer) -> Assistant:
    config = replace(tiny(base_vocab_size=800), tokens=tokenizer.tokens)
    return Assistant(golden_glamm(config, salt=""), tokenizer)


@pytest.fixture(scope="module")
def heard() -> list[list[str]]:
    """What a listener hears of each answer, piece by piece."""
    return [[] for _ in QUESTIONS]


@pytest.fixture(scope="module")
def answers(assistant: Assistant, heard: list[list[str]]) -> list[Answer]:
    return assistant.chat_many(QUESTIONS, on_text=lambda row, piece: heard[row].append(piece))


def equal(ours: Answer, theirs: Answer) -> None:
    """The same words and phrases, the same masks but for pixels on the edge of rounding."""
    assert (ours.raw, ours.finish, ours.problems) == (theirs.raw, theirs.finish, theirs.problems)
    for said, also in (
        (ours.groundings, theirs.groundings),
        (ours.prompt_groundings, theirs.prompt_groundings),
    ):
        for one, other in zip(said, also, strict=True):
            assert (one.phrase, one.start, one.end) == (other.phrase, other.start, other.end)
            assert (one.mask is None) == (other.mask is None)
            if one.mask is not None and other.mask is not None:
                assert one.mask.shape == other.mask.shape == ours.image.shape[:2]
                assert (one.mask != other.mask).mean() < 0.01
                assert one.score == pytest.approx(other.score, abs=1e-5)


def test_what_the_model_says_becomes_phrases_with_masks(answers: list[Answer]) -> None:
    described = answers[0]
    assert described.raw.startswith("<p> very </p> [SEG] very </p> [SEG]")
    first, *loose = described.groundings
    assert described.text[first.start : first.end] == first.phrase == "very"
    assert [each.phrase for each in loose] == [""] * (described.raw.count(SEG) - 1)
    assert "[SEG] 1 belongs to no phrase" in described.problems
    for each in described.groundings:
        assert each.mask is not None and each.mask.shape == (18, 24)
        assert each.score is not None and 0 <= each.score <= 1


@pytest.mark.parametrize("number", [1, 4])
def test_a_question_among_others_is_answered_as_if_alone(
    assistant: Assistant, answers: list[Answer], number: int
) -> None:
    q = QUESTIONS[number]
    alone = assistant.chat(
        q.image, q.prompt, regions=q.regions, history=q.history, max_tokens=q.max_tokens
    )
    equal(answers[number], alone)


def test_segs_of_the_prompt_give_masks_of_their_own(answers: list[Answer]) -> None:
    asked = answers[1]
    assert asked.question.text == "Where are the roof and?"
    assert [(g.phrase, g.start, g.end) for g in asked.prompt_groundings] == [
        ("the roof", 10, 18),
        ("", 22, 22),
    ]
    for each in asked.prompt_groundings:
        assert each.mask is not None and each.mask.shape == (30, 20)
    assert len([g for g in asked.groundings if g.mask is not None]) == asked.raw.count(SEG)
    assert "in the question: [SEG] 1 belongs to no phrase" in asked.problems


def test_segs_of_the_history_have_masks_in_their_own_turn(answers: list[Answer]) -> None:
    asked = answers[4]
    assert [turn.raw for turn in asked.history] == ["Where is region1 <bbox> [SEG]?", GIVEN]
    assert [len(turn.groundings) for turn in asked.history] == [1, 1]
    wall = asked.history[1].groundings[0]
    assert wall.phrase == "a wall" and wall.mask is not None
    assert asked.prompt_groundings == ()


def test_boxes_change_what_is_answered_about_them(
    assistant: Assistant, answers: list[Answer]
) -> None:
    moved = replace(QUESTIONS[4], regions=[[9, 9, 10, 17], [0, 0, 24, 18]])
    again = assistant.chat_many([*QUESTIONS[:4], moved])[4]
    before, after = (each.history[1].groundings[0].score for each in (answers[4], again))
    assert before is not None and after is not None
    assert abs(before - after) > 3e-5  # three times what a batch may change
    np.testing.assert_array_equal(again.regions, moved.regions)


def test_an_answer_ends_by_itself_or_at_its_length(answers: list[Answer]) -> None:
    assert [each.finish for each in answers] == ["end", "end", "length", "end", "end"]
    assert answers[3].raw == "<p> very </p>"


def test_the_pieces_that_are_heard_make_up_the_text(
    answers: list[Answer], heard: list[list[str]]
) -> None:
    assert ["".join(pieces) for pieces in heard] == [answer.text for answer in answers]
    assert max(len(pieces) for pieces in heard) > 1


def test_a_listener_ends_one_answer_and_the_others_go_on(
    assistant: Assistant, answers: list[Answer]
) -> None:
    stopped = assistant.chat_many(QUESTIONS, on_text=lambda row, _: row != 1)
    assert stopped[1].finish == "stopped"
    assert answers[1].raw.startswith(stopped[1].raw)
    assert 0 < len(stopped[1].raw) < len(answers[1].raw)
    masks = [each for each in stopped[1].groundings if each.mask is not None]
    assert len(masks) == stopped[1].raw.count(SEG) > 0
    for row in (0, 2, 3, 4):
        equal(stopped[row], answers[row])


def test_a_drawn_answer_follows_from_its_own_settings(
    assistant: Assistant, answers: list[Answer]
) -> None:
    q = QUESTIONS[1]

    def alone(**settings: Any) -> Answer:
        return assistant.chat(q.image, q.prompt, max_tokens=q.max_tokens, **settings)

    drawn = alone(temperature=2.0, seed=5)
    assert len({answers[1].raw, drawn.raw, alone(temperature=2.0, seed=6).raw}) == 3
    assert alone(temperature=2.0, seed=5, top_p=1e-6).raw == answers[1].raw
    hot = replace(q, temperature=2.0, seed=5)
    together = assistant.chat_many([QUESTIONS[0], hot, *QUESTIONS[2:]])
    equal(together[1], drawn)
    for row in (0, 2, 3, 4):
        equal(together[row], answers[row])


def test_prompts_that_leave_no_room_for_each_others_answers_are_answered_apart(
    assistant: Assistant,
) -> None:
    context = assistant.config.llama.max_positions
    rows = [
        assistant.rows.row(0, replace(QUESTIONS[0], max_tokens=context), SHARED),
        assistant.rows.row(1, QUESTIONS[0], SHARED),
        assistant.rows.row(2, replace(QUESTIONS[0], prompt="dog " * 200), SHARED),
    ]
    assert rows[0].limit == context - rows[0].prompt.length
    together = [[row.index for row in batch] for batch in assistant._batches(rows)]
    assert together == [[0, 1], [2]]


def test_questions_about_one_picture_share_its_encoding(assistant: Assistant) -> None:
    boxed = replace(QUESTIONS[0], prompt="And <bbox>?", regions=[1, 1, 9, 9])
    asked = [*QUESTIONS[:3], boxed]
    rows = [assistant.rows.row(n, question, question.image) for n, question in enumerate(asked)]
    batch, ordered = assistant._prepare_batch(rows, BatchShape())
    assert [row.index for row in ordered] == [0, 2, 1, 3]
    images = batch.image_source.max(axis=1) // assistant.config.clip.num_patches
    assert images.tolist() == [0, 0, 1, 2]


def test_ids_without_a_token_are_left_out_and_named(assistant: Assistant) -> None:
    assert assistant.rows.decode_ids([627, 806]) == ("very", ("no token has the id 806",))


# ------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"image": "nowhere.png"}, ImageError, "nowhere.png: no such file"),
        ({"regions": [[9, 9, 2, 2]]}, BoxError, "is inverted"),
        ({"prompt": " "}, PromptError, "the prompt is empty"),
    ],
)
def test_the_question_that_cannot_be_used_is_named(
    assistant: Assistant, wrong: dict[str, Any], error: type, message: str
) -> None:
    bad = replace(QUESTIONS[0], **wrong)
    with pytest.raises(error, match=f"^question 1: .*{message}"):
        assistant.chat_many([QUESTIONS[0], bad])
    with pytest.raises(error, match=f"^(?!question).*{message}"):
        assistant.chat_many([bad])


@pytest.mark.usefixtures("unchecked")
def test_a_question_needs_a_picture(assistant: Assistant) -> None:
    with pytest.raises(ImageError, match="every question is about an image"):
        assistant.chat(None, "What is this?")  # pyright: ignore


def test_numbers_out_of_range_are_named() -> None:
    with pytest.raises(QuestionError, match="max_tokens is 0"):
        replace(QUESTIONS[0], max_tokens=0)
    with pytest.raises(SamplingError, match="temperature: must be at least 0"):
        replace(QUESTIONS[0], temperature=-1.0)


def test_another_models_tokenizer_is_refused(assistant: Assistant, goldens: Path) -> None:
    model = nnx.merge(assistant.generator.graph, assistant.generator.state)
    with pytest.raises(TokenizerError, match="does not belong to this model"):
        Assistant(model, load_tokenizer(goldens / "tokenizer"))


# ------------------------------------------------------------------ from a folder


@pytest.fixture(scope="module")
def saved(assistant: Assistant, goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's weights with the golden tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    leaves = {name: np.asarray(x) for name, x in flatten_state(assistant.generator.state).items()}
    infos = {name: TensorInfo(x.dtype, x.shape) for name, x in leaves.items()}
    with TensorWriter(folder).open(infos) as writer:
        for name, array in leaves.items():
            writer.write(name, array)
    finish_folder(folder, tiny(base_vocab_size=800), {}, goldens / "tokenizer")
    return folder


def test_a_model_comes_from_a_folder(assistant: Assistant, saved: Path) -> None:
    loaded = load(saved)
    assert loaded.config == tiny(base_vocab_size=800)
    assert loaded.tokenizer.tokens == loaded.config.tokens
    jax.tree.map(np.testing.assert_array_equal, loaded.generator.state, assistant.generator.state)


def test_a_model_comes_in_the_dtype_and_onto_the_mesh_that_are_asked_for(saved: Path) -> None:
    mesh = make_mesh(tensor=2)
    loaded = load(saved, dtype="bfloat16", mesh=mesh)
    assert (loaded.config.compute_dtype, loaded.mesh) == ("bfloat16", mesh)
    weights = jax.tree.leaves(loaded.generator.state)
    assert {x.dtype.name for x in weights} == {"bfloat16"}
    assert {len(x.sharding.device_set) for x in weights} == {2}


def test_a_folder_with_another_models_tokenizer_is_refused(
    assistant: Assistant, saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved, tmp_path / "other")
    write_config(tmp_path / "other", assistant.config)
    with pytest.raises(TokenizerError, match="does not belong to this model"):
        load(tmp_path / "other")


def test_a_part_of_a_model_answers_nothing(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "part")
    write_config(tmp_path / "part", tiny().clip)
    with pytest.raises(FolderError, match="holds a part of a model"):
        load(tmp_path / "part")

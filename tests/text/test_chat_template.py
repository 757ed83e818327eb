"""Templates render turns as the original does; that of the checkpoints is the default."""

from __future__ import annotations

import json

import pytest

from glamm_jax.text.chat_template import RELEASED_TEMPLATE, TEMPLATES, TemplateError, chat_template

TURNS = ["Q one?", "A one.", "Q two?", None]


def test_every_recorded_template_renders_as_recorded(goldens):
    path = goldens / "conversations" / "conversation_templates.json"
    recorded = json.loads(path.read_text("utf-8"))
    assert set(recorded) == set(TEMPLATES)
    for name, entry in recorded.items():
        if entry["prompt"].startswith("ERROR"):
            with pytest.raises(TemplateError, match="plain template"):
                TEMPLATES[name].render(TURNS)
        else:
            assert TEMPLATES[name].render(TURNS) == entry["prompt"], name


def test_the_checkpoints_template_is_llava_v1():
    assert RELEASED_TEMPLATE is chat_template("llava_v1")


@pytest.mark.parametrize("name", ["llava_v1", "v1", "default", "v1_mmtag"])
@pytest.mark.parametrize("open_turn", ["", None])
def test_an_open_answer_ends_in_the_name_without_a_space(name, open_turn):
    rendered = chat_template(name).render(["Q", open_turn])
    assert rendered.endswith(f"{chat_template(name).roles[1]}:")


def test_an_unknown_name_lists_the_templates():
    with pytest.raises(TemplateError, match=r"no chat template 'llava_v2'.*llava_v1"):
        chat_template("llava_v2")


def test_a_llama_2_conversation_needs_a_first_question():
    for turns in ([], [None], ["", "A"]):
        with pytest.raises(TemplateError, match="starts with a turn of the user"):
            chat_template("llama_2").render(turns)


def test_a_plain_template_renders_a_question_alone():
    assert chat_template("plain").render(["Q", None]) == "Q\n"

"""The mini-world's tokenizer: a sentencepiece model whose words, and set phrases, are whole pieces.

    python -m examples.learn_miniworld.vocabulary DIR

LLaMA's kind (byte-pair pieces, bytes for what is unknown), 700 pieces. What stands in every prompt
or answer alike (the system line, the questions) is one piece each, so a row is a third as long.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from glamm_jax.files import write_atomic
from glamm_jax.miniworld import WORLDS, render_scene, scene_record
from glamm_jax.text import questions
from glamm_jax.text.chat_template import RELEASED_TEMPLATE

PIECES = 700
SCENES, SEED, SIZE = 600, 5, 64  # whose texts are looked at
ASKED = (
    *questions.GCG_QUESTIONS,
    *questions.SEGMENTATION_QUESTIONS,
    *questions.REGION_QUESTIONS,
    *questions.CAPTION_QUESTIONS,
)
SPEAKERS = ("▁USER:", "▁ASSISTANT:", "▁USER:▁The")
STOPS = ("▁.", "▁,")  # behind a [SEG]
BETWEEN = re.compile(r"\{name\}|\{regions\}|<[^>]*>|\[SEG\]")


def stretches(text: str) -> list[str]:
    """What stands between names, regions and special tokens, if it is more than a word."""
    return [part for each in BETWEEN.split(text) if " " in (part := each.strip())]


def set_phrases() -> list[str]:
    """What is always said alike."""
    behind_image = "provides an overview of the picture."
    said = (*ASKED, *questions.SEGMENTATION_ANSWERS)
    phrases = (RELEASED_TEMPLATE.system, behind_image, *(p for t in said for p in stretches(t)))
    return list(dict.fromkeys(phrases))


def pieces() -> list[str]:
    """Pieces for set phrases; the first question follows a line break, all else a space."""
    firsts = [found[0] for text in ASKED if not text.startswith("{") if (found := stretches(text))]
    found = [*(f"▁{phrase}" for phrase in set_phrases()), *(f"\n{phrase}" for phrase in firsts)]
    return [*(piece.replace(" ", "▁") for piece in dict.fromkeys(found)), *STOPS, *SPEAKERS]


def texts() -> Iterator[str]:
    """All that is said about some scenes of the easy worlds."""
    for number in range(SCENES):
        world = WORLDS["easy-extended" if number % 2 else "easy-pale"]
        for each in scene_record(render_scene(SEED, number, SIZE, world)).annotations:
            yield from (text for text in (each.text, *each.turns) if text)
    regions = ("region1", "region2", "region3")
    yield from ("USER: The image", "ASSISTANT: region1 region2 region3", *regions) * 100
    yield from set_phrases() * 3


def write_tokenizer(folder: Path) -> None:
    """tokenizer.model and the settings of LLaMA's tokenizer."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts(),
        model_writer=stream,
        model_type="bpe",
        vocab_size=PIECES,
        hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        character_coverage=1.0,
        user_defined_symbols=pieces(),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "tokenizer.model", stream.getvalue())
    settings = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    settings |= {"clean_up_tokenization_spaces": False, "legacy": True}
    write_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    write_tokenizer(Path(sys.argv[1]))

"""Train the mini-world's sentencepiece tokenizer, in which frequent word sequences are one piece.

    python -m examples.learn_miniworld.train_tokenizer DIR

As LLaMA's: byte-pair pieces, bytes for unknown characters; 700 pieces. The texts that every prompt
or answer shares (system message, questions) are one piece each, so a row has a third of the tokens.
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

NUM_PIECES = 700
NUM_SCENES, SEED, SIZE = 600, 5, 64  # of the scenes whose texts are the training data
QUESTIONS = (
    *questions.GCG_QUESTIONS,
    *questions.SEGMENTATION_QUESTIONS,
    *questions.REGION_QUESTIONS,
    *questions.CAPTION_QUESTIONS,
)
SPEAKERS = ("▁USER:", "▁ASSISTANT:", "▁USER:▁The")
PUNCTUATION = ("▁.", "▁,")  # follows a [SEG]
PLACEHOLDER = re.compile(r"\{name\}|\{regions\}|<[^>]*>|\[SEG\]")
IMAGE_SENTENCE_END = "provides an overview of the picture."  # follows the image tokens


def constant_parts(text: str) -> list[str]:
    """Return the parts of two or more words between names, regions and special tokens."""
    return [part for x in PLACEHOLDER.split(text) if " " in (part := x.strip())]


def constant_phrases() -> list[str]:
    """Return the phrases that prompts and answers share."""
    texts = (*QUESTIONS, *questions.SEGMENTATION_ANSWERS)
    parts = (part for text in texts for part in constant_parts(text))
    return list(dict.fromkeys((RELEASED_TEMPLATE.system, IMAGE_SENTENCE_END, *parts)))


def user_pieces() -> list[str]:
    """Return the constant phrases as pieces.

    The first question of a conversation follows a line break, every other phrase a space.
    """
    first_parts = [
        parts[0]
        for text in QUESTIONS
        if not text.startswith("{") and (parts := constant_parts(text))
    ]
    pieces = [*(f"▁{x}" for x in constant_phrases()), *(f"\n{x}" for x in first_parts)]
    return [*(x.replace(" ", "▁") for x in dict.fromkeys(pieces)), *PUNCTUATION, *SPEAKERS]


def training_texts() -> Iterator[str]:
    """Yield all texts of some scenes of the easy worlds, and the constant phrases."""
    for scene_id in range(NUM_SCENES):
        world = WORLDS["easy-extended" if scene_id % 2 else "easy-pale"]
        for annotation in scene_record(render_scene(SEED, scene_id, SIZE, world)).annotations:
            yield from (text for text in (annotation.text, *annotation.turns) if text)
    regions = ("region1", "region2", "region3")
    yield from ("USER: The image", "ASSISTANT: region1 region2 region3", *regions) * 100
    yield from constant_phrases() * 3


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.model and tokenizer_config.json, as for LLaMA's tokenizer."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=training_texts(),
        model_writer=stream,
        model_type="bpe",
        vocab_size=NUM_PIECES,
        hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        character_coverage=1.0,
        user_defined_symbols=user_pieces(),
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

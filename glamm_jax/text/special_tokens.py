"""Tokens that GLaMM adds to LLaMA's vocabulary, and two ids outside the vocabulary."""

from __future__ import annotations

from glamm_jax.config import TokenConfig

IGNORE_ID = -100
IMAGE_ID = -200
IMAGE_PLACEHOLDER = "<image>"

IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
REGION = "<bbox>"
POINT = "<point>"
SEG = "[SEG]"
PHRASE_START = "<p>"
PHRASE_END = "</p>"

# quirk 24: the ids of the added tokens follow the sentencepiece vocabulary in this order.
ADDED_TOKENS = (IMAGE_START, IMAGE_END, REGION, POINT, SEG, PHRASE_START, PHRASE_END)

CONTROL_TOKENS = ("<s>", "</s>", "<unk>")
# What no text of a dataset may contain: the tokenizer reads these words as tokens of the model.
RESERVED_TOKENS = (IMAGE_PLACEHOLDER, *ADDED_TOKENS, *CONTROL_TOKENS)

# Field of `TokenConfig` that holds the id of each added token.
TOKEN_CONFIG_FIELDS = {
    IMAGE_START: "image_start",
    IMAGE_END: "image_end",
    REGION: "region",
    POINT: "point",
    SEG: "seg",
    PHRASE_START: "phrase_start",
    PHRASE_END: "phrase_end",
}


def find_reserved_token(text: str) -> str | None:
    """Return a reserved token that a text contains; None if it contains none."""
    return next((token for token in RESERVED_TOKENS if token in text), None)


def token_config(ids: dict[str, int], pad: int, bos: int, eos: int) -> TokenConfig:
    """Return the ids of special tokens as the model's configuration.

    Args:
        ids: added token -> id.
        pad: id of the padding token.
        bos: id of <s>.
        eos: id of </s>.
    """
    added = {TOKEN_CONFIG_FIELDS[token]: ids[token] for token in ADDED_TOKENS}
    return TokenConfig(pad=pad, bos=bos, eos=eos, **added)

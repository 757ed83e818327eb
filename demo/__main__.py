"""`python -m demo`: the tiny golden checkpoint answers about a photograph.

Its weights are the golden rule's random numbers, the very ones with which the original was
recorded, so the words and masks mean nothing; but every part runs (CLIP, regions, decoder with
cache, SAM, [SEG] to mask), and the numbers are those that `make parity` shows to be the original's.
A model that knows something is asked by `python -m demo.ask --model PATH`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from demo.ask import ask, question_parser
from glamm_jax.config import tiny
from glamm_jax.inference.chat import Assistant
from glamm_jax.parity.golden_model import golden_glamm
from glamm_jax.text.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).parents[1] / "tests" / "goldens" / "tokenizer"
QUESTION = "Where are <p> the roof </p> [SEG] and <p> the sky </p> [SEG]?"


def main() -> int:
    """Ask the tiny checkpoint."""
    defaults = {"image": None, "prompt": QUESTION, "tokens": 24, "out": Path("out/demo")}
    options = question_parser("python -m demo", str(__doc__), **defaults).parse_args()
    options.image = options.image or _photograph()
    return ask(options, golden_assistant)


def golden_assistant() -> Assistant:
    """The tiny model with golden weights; takes some seconds."""
    print("drawing the tiny checkpoint by the golden rule, then answering (compiles) ...")
    tokenizer = load_tokenizer(TOKENIZER)
    config = tiny(base_vocab_size=tokenizer.tokens.image_start)
    return Assistant(golden_glamm(config, salt=""), tokenizer)


def _photograph() -> Path:
    """The photograph that scikit-learn carries."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


if __name__ == "__main__":
    sys.exit(main())

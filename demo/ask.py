"""`python -m demo.ask`: a model answers about a picture, in words and masks.

    python -m demo.ask --model PATH --image dog.jpg --prompt "Where is <p> the dog </p> [SEG]?"

The words appear as they are written; then come the phrases, the share of the picture under each
mask, and what is malformed. OUT.png shows it, OUT.json holds it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.config import ConfigError
from glamm_jax.data.boxes import BoxError, check_boxes
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.files import FolderError
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, Question, QuestionError, load
from glamm_jax.inference.sampling import SamplingError
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.weights.safetensors import TensorFileError

UNUSABLE = (ImageError, BoxError, QuestionError, SamplingError, PromptError, TokenizerError)
UNREADABLE = (ConfigError, FolderError, TensorFileError)


def main() -> int:
    """Load the model, ask it, write what it says."""
    parser = question_parser("python -m demo.ask", str(__doc__), tokens=512, out=Path("out/answer"))
    parser.add_argument("--model", type=Path, required=True, help="a folder with a model")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="the model's own if absent"
    )
    options = parser.parse_args()
    return ask(options, lambda: load(options.model, options.dtype))


def question_parser(prog: str, description: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options of a question; image and prompt are required unless they have a default."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--image", type=Path, required="image" not in defaults, help="a picture")
    add(
        "--prompt",
        required="prompt" not in defaults,
        help="the question; each [SEG] in it gives a mask, too",
    )
    add(
        "--box",
        nargs=4,
        type=float,
        action="append",
        default=[],
        metavar=("X0", "Y0", "X1", "Y1"),
        help="a region in pixels of the picture, one for each <bbox> of the prompt, in order",
    )
    add("--tokens", type=int, help="length of the answer, at most (%(default)s)")
    add("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    add("--top-p", type=float, default=1.0, help="draw from this share of the probability")
    add("--seed", type=int, default=0, help="another seed draws another answer")
    add("--out", type=Path, help="writes OUT.png and OUT.json (%(default)s)")
    parser.set_defaults(**defaults)
    return parser


def ask(options: argparse.Namespace, make: Callable[[], Assistant]) -> int:
    """Answer, print, write; 2 when the picture, boxes, prompt or model cannot be used."""
    try:
        question = _question(options)  # before minutes of loading
        answer = _answer(make(), question)
    except (*UNUSABLE, *UNREADABLE) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    _describe(answer)
    for suffix, save in ((".png", answer.save_picture), (".json", answer.save)):
        path = options.out.with_name(options.out.name + suffix)
        save(path)
        print(f"wrote {path}")
    return 0


def _question(options: argparse.Namespace) -> Question:
    image = open_image(options.image)
    return Question(
        image,
        options.prompt,
        regions=check_boxes(options.box, *image.shape[:2]),
        max_tokens=options.tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def _answer(assistant: Assistant, question: Question) -> Answer:
    started = time.perf_counter()
    [answer] = assistant.chat_many(
        [question], on_text=lambda _, piece: print(piece, end="", flush=True)
    )
    print(f"\n({time.perf_counter() - started:.1f} s, compiling included; finish: {answer.finish})")
    return answer


def _describe(answer: Answer) -> None:
    for where, groundings in (
        ("question", answer.prompt_groundings),
        ("answer", answer.groundings),
    ):
        for each in groundings:
            print(f"  {where:8}  {each.phrase or '[SEG]'}: {_share(each)}")
    for problem in answer.problems:
        print(f"  problem   {problem}")


def _share(grounding: Grounding) -> str:
    if grounding.mask is None:
        return "no mask"
    share = grounding.mask.mean()
    return f"{share:.0%} of the picture, estimated IoU {grounding.score:.2f}"


if __name__ == "__main__":
    sys.exit(main())

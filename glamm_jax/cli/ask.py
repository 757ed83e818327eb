"""`python -m demo.ask`: a model answers about a picture, in words and masks.

    python -m demo.ask                                  the tiny model, about a scene of its world
    python -m demo.ask --scene 7 --prompt "Can you segment the red star in this image?"
    python -m demo.ask --model PATH --image dog.jpg --prompt "Where is <p> the dog </p> [SEG]?"

The words appear as they are written; then come the phrases, the share of the picture under each
mask, and what is malformed. OUT.png shows it, OUT.json holds it.

Without --model the weights are those of models/miniworld-tiny, which `make learn` has trained on
drawn scenes: they know coloured shapes, and nothing of photographs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from glamm_jax.data.boxes import BoxError, check_boxes
from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, Question, QuestionError, load
from glamm_jax.inference.sampling import SamplingError
from glamm_jax.miniworld import EASY, scene
from glamm_jax.text.prompt import PromptError
from glamm_jax.text.questions import GCG_QUESTIONS
from glamm_jax.text.tokenizer import TokenizerError
from glamm_jax.weights.safetensors import TensorFileError

UNUSABLE = (ImageError, BoxError, QuestionError, SamplingError, PromptError, TokenizerError)
UNREADABLE = (ConfigError, FolderError, TensorFileError)


SHIPPED = Path(__file__).parents[1] / "models" / "miniworld-tiny"
SCENES = 77_001  # seed of the scenes; training draws from others
PICTURE = 64  # pixels of a side of a scene, as the shipped model has learned to see them


def main(arguments: list[str] | None = None) -> int:
    """Answer, print, write; 2 when the picture, boxes, prompt or model cannot be used."""
    options = parse(arguments)
    try:
        question = _question(options)  # before minutes of loading
        answer = _answer(load(options.model, options.dtype), question)
    except (*UNUSABLE, *UNREADABLE) as error:
        print(f"demo.ask: {error}", file=sys.stderr)
        return 2
    _describe(answer)
    for suffix, save in ((".png", answer.save_picture), (".json", answer.save)):
        path = options.out.with_name(options.out.name + suffix)
        save(path)
        print(f"wrote {path}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.ask",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED, help="a folder with a model")
    add("--image", type=Path, help="a picture; a scene of the mini-world if absent")
    add("--scene", type=int, default=0, help="number of the scene (%(default)s)")
    add(
        "--prompt",
        default=GCG_QUESTIONS[0],
        help='the question; each [SEG] in it gives a mask, too ("%(default)s")',
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
    add("--tokens", type=int, default=512, help="length of the answer, at most (%(default)s)")
    add("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    add("--top-p", type=float, default=1.0, help="draw from this share of the probability")
    add("--seed", type=int, default=0, help="another seed draws another answer")
    add("--dtype", choices=("float32", "bfloat16"), help="the model's own if absent")
    add(
        "--out",
        type=Path,
        default=Path("out/answer"),
        help="writes OUT.png and OUT.json (%(default)s)",
    )
    return parser.parse_args(arguments)


def _question(options: argparse.Namespace) -> Question:
    image = open_image(options.image) if options.image else _scene(options.scene)
    return Question(
        image,
        options.prompt,
        regions=check_boxes(options.box, *image.shape[:2]),
        max_tokens=options.tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def _scene(number: int) -> UInt8[np.ndarray, "h w 3"]:
    return scene(SCENES, number, PICTURE, EASY).image


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

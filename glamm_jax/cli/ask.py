"""Ask a model about an image; it answers in text and masks.

  glamm-jax ask                                  the shipped model, about a rendered scene
  glamm-jax ask --scene 7 --prompt "Can you segment the red star in this image?"
  glamm-jax ask --model MODEL --image dog.jpg --prompt "Where is <p> the dog </p> [SEG]?"
  glamm-jax ask --model MODEL --image dog.jpg --prompt "What is region1 <bbox>?" --box 9 4 80 60

The text is printed as it is generated; then the phrases, the share of the image under each mask,
and what is malformed. OUT.png shows the answer, OUT.json holds it.

Without --model the weights are those of checkpoints/miniworld-tiny in the repository, trained by
`make learn` on rendered scenes: they know coloured shapes and nothing of photographs.

Exit status: 0 done, 2 unusable input.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from glamm_jax.cli.program import checkout_path, make_parser, run_program
from glamm_jax.data.boxes import check_boxes
from glamm_jax.data.preprocess import open_image
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, Question, load
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.text.questions import GCG_QUESTIONS

SHIPPED_MODEL = ("checkpoints", "miniworld-tiny")  # in a checkout
SCENE_SEED = 77_001  # training renders scenes of other seeds
SCENE_SIZE = 64  # pixels of a side, as the shipped model was trained


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax ask") -> int:
    """Answer, print, write; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("ask", lambda: answer_question(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax ask") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    add = parser.add_argument
    add("--model", type=Path, metavar="MODEL", help="a model folder (default: the shipped model)")
    add("--image", type=Path, metavar="FILE", help="default: a rendered scene")
    add("--scene", type=int, default=0, metavar="N", help="number of the scene (%(default)s)")
    add(
        "--prompt",
        default=GCG_QUESTIONS[0],
        help='each [SEG] in it is given a mask, too ("%(default)s")',
    )
    add(
        "--box",
        nargs=4,
        type=float,
        action="append",
        default=[],
        metavar=("X0", "Y0", "X1", "Y1"),
        help="a region in pixels of the image, one for each <bbox> of the prompt, in order",
    )
    add("--tokens", type=int, default=512, metavar="N", help="longest answer (%(default)s)")
    add("--temperature", type=float, default=0.0, help="0, the default, decodes greedily")
    add("--top-p", type=float, default=1.0, help="sample from this share of the probability")
    add("--seed", type=int, default=0, help="of the sampling")
    add("--dtype", choices=("float32", "bfloat16"), help="default: the model's own")
    add(
        "--out",
        type=Path,
        default=Path("out/answer"),
        help="write OUT.png and OUT.json (%(default)s)",
    )
    return parser.parse_args(arguments)


def answer_question(options: argparse.Namespace) -> None:
    """Answer the question of the parsed command line, print the answer and write its files."""
    question = _question(options)  # checked before the model is loaded, which takes minutes
    model = options.model or checkout_path(*SHIPPED_MODEL, instead="name a model with --model")
    answer = _generate(load(model, options.dtype), question)
    _print_groundings(answer)
    for suffix, save in ((".png", answer.save_overlay), (".json", answer.save)):
        path = options.out.with_name(options.out.name + suffix)
        save(path)
        print(f"wrote {path}")


def _question(options: argparse.Namespace) -> Question:
    image = open_image(options.image) if options.image else scene_image(options.scene)
    return Question(
        image,
        options.prompt,
        regions=check_boxes(options.box, *image.shape[:2]),
        max_tokens=options.tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def scene_image(number: int) -> UInt8[np.ndarray, "h w 3"]:
    """Render a scene of the world that the shipped model was trained on."""
    return render_scene(SCENE_SEED, number, SCENE_SIZE, EASY).image


def _generate(assistant: Assistant, question: Question) -> Answer:
    started = time.perf_counter()
    [answer] = assistant.chat_many(
        [question], on_text=lambda _, piece: print(piece, end="", flush=True)
    )
    seconds = time.perf_counter() - started
    print(f"\n({seconds:.1f} s, compilation included; finish: {answer.finish})")
    return answer


def _print_groundings(answer: Answer) -> None:
    for origin, groundings in (
        ("question", answer.prompt_groundings),
        ("answer", answer.groundings),
    ):
        for grounding in groundings:
            phrase = grounding.phrase or "[SEG]"
            print(f"  {origin:8}  {phrase}: {_mask_summary(grounding)}")
    for problem in answer.problems:
        print(f"  problem   {problem}")


def _mask_summary(grounding: Grounding) -> str:
    if grounding.mask is None:
        return "no mask"
    return f"{grounding.mask.mean():.0%} of the image, estimated IoU {grounding.score:.2f}"

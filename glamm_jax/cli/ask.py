"""Answer a question about an image with text and masks.

examples:
  glamm-jax ask                                  # the shipped model and a rendered scene
  glamm-jax ask --scene 7 --prompt "Can you segment the red star in this image?"
  glamm-jax ask --model glamm --image dog.jpg --prompt "Where is <p> the dog </p> [SEG]?"
  glamm-jax ask --model glamm --image dog.jpg --prompt "What is region1 <bbox>?" --box 9 4 80 60
  glamm-jax ask --model glamm --images photos --task gcg --format coco --out out/answers

A model that does not fit one device is spread over all devices of the machine; --mesh chooses how:
each device of `tensor` has a part of every layer and works on the same question, while those of
`fsdp` divide the weights, but each needs a question of its own to work on.

The answer is printed while it is generated. Then follow the phrases with masks, the share of the
image that each mask covers and its score (the model's confidence, a probability between 0 and 1),
and malformed parts of the answer, if any. OUT.png shows the answer
with its masks; OUT.json contains the text and the masks as COCO run lengths.

--images answers about every image of a folder, in batches on all devices, and writes JSON lines
with the masks as COCO run lengths; --format adds other formats. --task is one of
  gcg       a description with a mask for every phrase
  refer     the mask of each --expression, or of those in the file of --questions, with lines like
            {"image": "a.jpg", "expressions": ["the dog", "the ball"]}
  region    a description of each box in the file of --questions, with lines such as
            {"image": "a.jpg", "boxes": [[9, 4, 80, 60]]}   (x0 y0 x1 y1 in pixels)
  caption   a description
An image that cannot be used gives a line that says why, and the same command resumes. --prompt is
the wording, with {name} for the expression and {regions} for the box.

Without --model, the weights are those of checkpoints/miniworld-tiny in the repository. They are
trained on rendered scenes of coloured shapes (`make learn`) and are of no use on photographs.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from glamm_jax.cli.ask_folder import (
    add_folder_arguments,
    answer_folder,
    check_folder_options,
    read_questions,
)
from glamm_jax.cli.program import (
    SHIPPED_MODEL,
    add_model_argument,
    add_placement_arguments,
    any_path,
    make_parser,
    model_or_shipped,
    run_program,
    this_machine,
)
from glamm_jax.config import DType
from glamm_jax.data import rle
from glamm_jax.data.boxes import check_boxes
from glamm_jax.data.preprocess import open_image
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.inference.chat import Assistant, Question, load
from glamm_jax.inference.placement import choose_mesh
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.parallel import MeshSizes
from glamm_jax.storage import AnyPath
from glamm_jax.text.questions import GCG_QUESTIONS
from glamm_jax.weights.folder import ModelFolder

SCENE_SEED = 77_001  # training renders scenes of other seeds
SCENE_SIZE = 64  # pixels of a side, as the shipped model was trained


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax ask") -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("ask", lambda: answer_question(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax ask") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    add = parser.add_argument
    add_model_argument(parser)
    add("--image", type=this_machine, metavar="FILE", help="image file (default: a rendered scene)")
    add(
        "--scene",
        type=int,
        default=0,
        metavar="N",
        help="number of the rendered scene (%(default)s)",
    )
    add(
        "--prompt",
        help=f'question; a [SEG] in it gives a mask, too ("{GCG_QUESTIONS[0]}")',
    )
    add(
        "--box",
        nargs=4,
        type=float,
        action="append",
        default=[],
        metavar=("X0", "Y0", "X1", "Y1"),
        help="box in pixels; repeat the option for every <bbox> of the prompt, in order",
    )
    add(
        "--tokens",
        type=int,
        default=512,
        metavar="N",
        help="maximum length of the answer in tokens (%(default)s)",
    )
    add("--temperature", type=float, default=0.0, help="0, the default: greedy decoding")
    add(
        "--top-p",
        type=float,
        default=1.0,
        help="nucleus sampling: probability mass to sample from (%(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of the sampling (%(default)s)")
    add_placement_arguments(parser)
    add(
        "--out",
        type=any_path,
        default=Path("out/answer"),
        help="write OUT.png and OUT.json, or OUT.jsonl (%(default)s)",
    )
    add_folder_arguments(parser)
    return parser.parse_args(arguments)


def answer_question(options: argparse.Namespace) -> None:
    """Answer the question of the parsed command line, print the answer and write its files."""
    model = model_or_shipped(options.model)
    if (options.image or options.images) and is_shipped(model):
        print(
            "note: the shipped model only knows drawn shapes; for photographs name another --model"
        )
    # The questions are checked before the model is loaded, which takes minutes.
    if options.images:
        check_folder_options(options)
        questions = read_questions(options, is_shipped(model))
        folder = ModelFolder(model)
        mesh = choose_mesh(folder, options.dtype, options.mesh, rows=options.batch, copies=True)
        answer_folder(options, questions, _load(model, options.dtype, mesh))
        return
    question = _question(options)
    answer = _generate(_load(model, options.dtype, options.mesh), question)
    _print_groundings(answer)
    for suffix, save in ((".png", answer.save_overlay), (".json", answer.save)):
        path = options.out.with_name(options.out.name + suffix)
        save(path)
        print(f"wrote {path}")


def _load(model: AnyPath, dtype: DType | None, mesh: Mesh | MeshSizes | None) -> Assistant:
    """Load a model and say where it is placed."""
    assistant = load(model, dtype, mesh)
    print(f"the model is on {assistant.placement()}", flush=True)
    return assistant


def is_shipped(model: AnyPath) -> bool:
    """Return whether a model folder is the shipped model, which was trained on drawn scenes."""
    return isinstance(model, Path) and model.resolve().parts[-2:] == SHIPPED_MODEL


def _question(options: argparse.Namespace) -> Question:
    image = open_image(options.image) if options.image else scene_image(options.scene)
    return Question(
        image,
        options.prompt or GCG_QUESTIONS[0],
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
    if grounding.runs is None:
        return "no mask"
    height, width = grounding.runs["size"]
    share = rle.area(grounding.runs) / (height * width)
    return f"{share:.0%} of the image, score {grounding.score:.2f}"


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.ask"))

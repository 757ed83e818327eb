"""How fast the mini-world is drawn: scenes a second on one core, by world and size.

    python -m bench.world               a minute
    python -m bench.world --scenes 5    seconds: shows that it runs

scene: picture and truth. record: with all annotations, masks in run lengths and a JPEG. example:
a record and, as training draws it from that, one conversation with its masks. The aim is 200 at
128 x 128. Processor time counts, so other programs on the machine matter little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from bench.measure import RESULTS, machine, median, table, write
from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data.conversation_sampler import draw_examples
from glamm_jax.miniworld import EASY, FULL, World, scene_record, render_scene

WORLDS = {"easy": EASY, "full": FULL}
SIZES = (96, 128, 256)
TURNS = 5
TASKS: tuple[ConversationTask, ...] = ("gcg", "referring")  # in turn


def works(size: int, world: World) -> dict[str, Callable[[int], object]]:
    """What is done for an id."""
    return {
        "scene": lambda i: render_scene(0, i, size, world),
        "record": lambda i: scene_record(render_scene(0, i, size, world)),
        "example": lambda i: draw_examples(
            scene_record(render_scene(0, i, size, world)), (TASKS[i % len(TASKS)],), ConversationConfig()
        ),
    }


def rate(work: Callable[[int], object], scenes: int) -> float:
    """Scenes a second, the median of some turns; no scene comes twice."""
    ids = count()
    work(next(ids))
    rates = []
    for _ in range(TURNS):
        begin = time.process_time()
        for _ in range(scenes):
            work(next(ids))
        rates.append(scenes / (time.process_time() - begin))
    return median(rates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(
        "python -m bench.world", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=200, help="a turn (default: 200)")
    parser.add_argument("--out", type=Path, default=RESULTS / "world.json")
    options = parser.parse_args(arguments)
    facts, rows = machine(), []
    for name, world in WORLDS.items():
        for size in SIZES:
            rates = {what: rate(do, options.scenes) for what, do in works(size, world).items()}
            rows.append({"world": name, "size": size, **rates})
    header = list(works(SIZES[0], EASY))
    printed = [
        [f"{row['world']}, {row['size']} x {row['size']}", *(f"{row[what]:.0f}" for what in header)]
        for row in rows
    ]
    print(table(["scenes/s/core", *header], printed))
    write(options.out, {"machine": facts, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Rendering speed of the mini-world: scenes per second on one core, by world and image size.

examples:
  python -m bench.miniworld               # a minute
  python -m bench.miniworld --scenes 5    # a test of the benchmark in seconds

  scene     image and masks
  record    scene with all annotations, masks as run lengths, and a JPEG
  example   record and one conversation with its masks, sampled as in training

The target is 200 scenes per second at 128 x 128. Processor time is measured, so other programs have
little influence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from bench.measure import RESULTS, machine, median, table, write
from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data.conversation_sampler import sample_conversations
from glamm_jax.miniworld import EASY, FULL, World, render_scene, scene_record

WORLDS = {"easy": EASY, "full": FULL}
SIZES = (96, 128, 256)
REPEATS = 5
TASKS: tuple[ConversationTask, ...] = ("gcg", "referring")  # alternating


def workloads(size: int, world: World) -> dict[str, Callable[[int], object]]:
    """Return the measured functions of a scene id, by name."""
    return {
        "scene": lambda i: render_scene(0, i, size, world),
        "record": lambda i: scene_record(render_scene(0, i, size, world)),
        "example": lambda i: sample_conversations(
            scene_record(render_scene(0, i, size, world)),
            (TASKS[i % len(TASKS)],),
            ConversationConfig(),
        ),
    }


def scenes_per_second(workload: Callable[[int], object], num_scenes: int) -> float:
    """Return the median over REPEATS measurements of `num_scenes`; every scene id is new."""
    ids = count()
    workload(next(ids))
    rates = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(num_scenes):
            workload(next(ids))
        rates.append(num_scenes / (time.process_time() - start))
    return median(rates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the JSON; returns the exit status."""
    options = parse(arguments)
    facts, rows = machine(), []
    for name, world in WORLDS.items():
        for size in SIZES:
            rates = {
                key: scenes_per_second(workload, options.scenes)
                for key, workload in workloads(size, world).items()
            }
            rows.append({"world": name, "size": size, **rates})
    columns = list(workloads(SIZES[0], EASY))
    cells = [
        [f"{row['world']}, {row['size']} x {row['size']}", *(f"{row[key]:.0f}" for key in columns)]
        for row in rows
    ]
    print(table(["scenes/s/core", *columns], cells))
    write(options.out, {"machine": facts, "rows": rows})
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.miniworld",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--scenes", type=int, default=200, help="scenes per repetition (default: 200)"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "miniworld.json", help="JSON to write"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())

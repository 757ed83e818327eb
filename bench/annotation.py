"""Speed and quality of the GranD annotation with oracle roles on rendered scenes.

examples:
  python -m bench.annotation                 # 1,000 scenes, both presets, three levels of noise
  python -m bench.annotation --scenes 50     # a test of the benchmark in a minute

  speed     scenes per second and core of all four levels: processor time of one process, images
            read from PNG, all oracles included, after a run over other scenes that compiles
  rerun     seconds of the same command when everything is finished
  quality   scores against the truth (`glamm_jax.grand.scoring`), by preset and noise

The scenes are rendered to the folder of --work, and reused.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, machine, table, write
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.images import scan_images
from glamm_jax.grand.pipeline import PIPELINES, build_graph
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.scoring import ScoreTotals, score_record
from glamm_jax.grand.stages import StageGraph
from glamm_jax.miniworld import FULL
from glamm_jax.miniworld.truth_folder import open_truth, write_scenes

NOISE = ("none", "easy", "hard")
ROLES = Path(__file__).resolve().parent.parent / "configs" / "annotate" / "oracle.toml"
SIZE = 192  # pixels of a side
WARM_UP = 20  # scenes


def rendered(work: Path, count: int, seed: int) -> Path:
    """Return a folder of scenes, rendered if it does not exist.

    Args:
        work: folder of all of them.
        count: number of scenes.
        seed: of the scenes.
    """
    folder = work / f"scenes-{seed}-{count}"
    if not folder.exists():
        write_scenes(folder, FULL, seed=seed, count=count, size=SIZE)
    return folder


def graph_of(scenes: Path, preset: str, noise: str, work: Path) -> StageGraph:
    """Return the stages with the oracles of `configs/annotate/oracle.toml`.

    Args:
        scenes: folder of `rendered`.
        preset: name of the options.
        noise: of all oracles.
        work: for the file of roles.
    """
    text = ROLES.read_text(encoding="utf-8")
    assert text.count('noise = "none"\n') == 1
    roles = work / f"roles-{noise}.toml"
    roles.write_text(text.replace('noise = "none"\n', f'noise = "{noise}"\n'), encoding="utf-8")
    return build_graph(read_roles(roles, photographs=scenes / "images"), PIPELINES[preset])


def annotate(scenes: Path, out: Path, graph: StageGraph) -> tuple[AnnotationRun, float, float]:
    """Annotate scenes in this process; returns the run, processor seconds and wall seconds.

    Args:
        scenes: folder of `rendered`.
        out: run folder; what it has already is used.
        graph: the stages.
    """
    images = scenes / "images"
    run = AnnotationRun.create(out, scan_images(images), images)
    cpu, wall = time.process_time(), time.perf_counter()
    run_local(run, graph, processes=1)
    return run, time.process_time() - cpu, time.perf_counter() - wall


def score(run: AnnotationRun, graph: StageGraph, scenes: Path) -> dict[str, float | None]:
    """Return the scores of a run.

    Args:
        run: of `annotate`.
        graph: its stages.
        scenes: folder with the truth.
    """
    totals, truth = ScoreTotals(), open_truth(scenes)
    for scene in run.scenes(graph, ["annotations"]):
        section = scene.sections.get("annotations")
        record = None if section is None else GrandRecord.from_json(section["record"])
        totals.add(score_record(record, truth[scene.image_id]))
    return totals.values()


def measure(work: Path, count: int) -> dict[str, Any]:
    """Return speed and scores by "preset, noise".

    Args:
        work: folder of scenes and runs.
        count: number of scenes.
    """
    warm, scenes = rendered(work, WARM_UP, seed=1), rendered(work, count, seed=0)
    results: dict[str, Any] = {}
    for noise in NOISE:
        for preset in PIPELINES:
            name = f"{preset}, {noise}"
            for folder in (work / "warm", work / "run"):
                shutil.rmtree(folder, ignore_errors=True)
            annotate(warm, work / "warm", graph_of(warm, preset, noise, work))
            graph = graph_of(scenes, preset, noise, work)
            run, cpu, wall = annotate(scenes, work / "run", graph)
            _, _, again = annotate(scenes, work / "run", graph)
            results[name] = {
                "scenes_per_core_second": count / cpu,
                "seconds": wall,
                "rerun_seconds": again,
                "scores": score(run, graph, scenes),
            }
            print(f"{name}: {count / cpu:.0f} scenes/s/core", flush=True)
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.annotation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenes", type=int, default=1000, help="number (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("out/bench-annotation"))
    parser.add_argument("--out", type=Path, default=RESULTS / "annotation.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables and write JSON; returns the exit status."""
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    results = measure(options.work, options.scenes)
    names = [*results]
    speed = [
        (name, f"{x['scenes_per_core_second']:.0f}", f"{x['rerun_seconds']:.2f}")
        for name, x in results.items()
    ]
    print(table(("preset, noise", "scenes/s/core", "rerun, s"), speed))
    metrics = results[names[0]]["scores"]
    rows = []
    for metric in metrics:
        values = [results[name]["scores"][metric] for name in names]
        rows.append((metric, *("-" if value is None else f"{value:.3f}" for value in values)))
    print(table(("metric", *names), rows))
    write(options.out, {"machine": machine(), "scenes": options.scenes, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

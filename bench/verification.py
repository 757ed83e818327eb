"""Cost and benefit of verifying dense captions: wrong entities, rounds, requests and words.

examples:
  python -m bench.verification                       # 1,000 scenes, three levels of LLM noise
  python -m bench.verification --scenes 50 --llm roles.toml --out real.json

All other roles answer without errors, so that every scene graph is exact: what is wrong in a
caption comes from the language model alone. With --llm, the tables [llm] and [checker] of a file of
roles replace the oracle.

  wrong, first   share of wrong entities of the first usable answer
  wrong, final   that of the caption that is kept
  rounds         answers that were compared with the graph, per image
  requests       to the language model per image, checklists included
  words out, in  of requests and of answers, per image; a word is about 1.3 tokens
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.annotation import ROLES, annotate, rendered, score
from bench.measure import RESULTS, machine, table, write
from glamm_jax.grand.adapters import NoiseOptions
from glamm_jax.grand.adapters.oracle_language import OracleLLM
from glamm_jax.grand.pipeline import PIPELINES, RoleSet, build_graph
from glamm_jax.grand.prompts import default_prompts
from glamm_jax.grand.record import GrandRecord
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, TextLLM
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph

# Level -> how often the oracle invents an object, refuses, and is cut.
LEVELS = {
    "low": NoiseOptions(llm_inventions=0.1, llm_refusals=0.01, llm_truncations=0.01),
    "medium": NoiseOptions(llm_inventions=0.25, llm_refusals=0.03, llm_truncations=0.03),
    "high": NoiseOptions(llm_inventions=0.5, llm_refusals=0.1, llm_truncations=0.1),
}
REAL = "real LLM"
COLUMNS = {
    "first_wrong": "wrong, first",
    "final_wrong": "wrong, final",
    "verified": "verified",
    "captions": "with caption",
    "rounds": "rounds",
    "requests": "requests",
    "words_out": "words out",
    "words_in": "words in",
}


class CountingLLM:
    """A language model, and what went to it and came back about dense captions."""

    def __init__(self, llm: TextLLM):
        self._llm, self.counts = llm, Counter[str]()
        self.name, self.fingerprint = llm.name, llm.fingerprint
        self.needs_device = llm.needs_device
        if hasattr(llm, "batch_size"):
            self.batch_size = llm.batch_size  # type: ignore[attr-defined]  # of some models

    def setup(self) -> None:
        """Load the model."""
        self._llm.setup()

    def __call__(self, requests: Sequence[LLMRequest]) -> Any:
        answers = self._llm(requests)
        context = default_prompts().context("")[0]
        for request, answer in zip(requests, answers, strict=True):
            if request.messages[0] == context:
                continue
            self.counts["requests"] += 1
            self.counts["words_out"] += sum(len(x.text.split()) for x in request.messages)
            if isinstance(answer, LLMAnswer):
                self.counts["words_in"] += len(answer.text.split())
        return answers


def measure(work: Path, count: int, llm_file: Path | None) -> dict[str, dict[str, Any]]:
    """Return the figures by "preset, level".

    Args:
        work: folder of scenes and runs.
        count: number of scenes.
        llm_file: file of roles with a language model; None: oracles.
    """
    scenes = rendered(work, count, seed=0)
    results: dict[str, dict[str, Any]] = {}
    for level in [REAL] if llm_file else LEVELS:
        for preset in PIPELINES:
            roles, llm = _roles(scenes, LEVELS.get(level), llm_file)
            graph = build_graph(roles, PIPELINES[preset])
            shutil.rmtree(work / "run", ignore_errors=True)
            run, _, seconds = annotate(scenes, work / "run", graph)
            figures = _figures(run, graph, scenes)
            figures |= {name: n / count for name, n in llm.counts.items()}
            figures["seconds"] = seconds / count
            results[f"{preset}, {level}"] = figures
            print(f"{preset}, {level}: {seconds:.0f} s", flush=True)
    return results


def _roles(
    scenes: Path, noise: NoiseOptions | None, llm_file: Path | None
) -> tuple[RoleSet, CountingLLM]:
    """Return exact roles with the language model, which also writes the checklists."""
    roles = read_roles(ROLES, photographs=scenes / "images")
    if llm_file is None:
        llm: Any = OracleLLM(scenes, "llm", noise or NoiseOptions())
    else:
        llm = read_roles(llm_file, photographs=scenes / "images").llm
    counting = CountingLLM(llm)
    return replace(roles, llm=counting, checker=None), counting


def _figures(run: AnnotationRun, graph: StageGraph, scenes: Path) -> dict[str, Any]:
    scores = score(run, graph, scenes)
    rounds = captions = verified = images = 0
    for scene in run.scenes(graph, ["annotations"]):
        section = scene.sections.get("annotations")
        images += 1
        if section is not None:
            record = GrandRecord.from_json(section["record"])
            rounds += sum(attempt.problem is None for attempt in record.attempts)
            captions += record.dense_source == "llm"
            verified += bool(record.verified)
    first, final = scores["first_entity_precision"], scores["final_entity_precision"]
    return {
        "first_wrong": None if first is None else 1 - first,
        "final_wrong": None if final is None else 1 - final,
        "rounds": rounds / images,
        "captions": captions / images,
        "verified": verified / images,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenes", type=int, default=1000, help="number (%(default)s)")
    parser.add_argument("--llm", type=Path, metavar="FILE", help="file of roles with [llm]")
    parser.add_argument("--work", type=Path, default=Path("out/bench-verification"))
    parser.add_argument("--out", type=Path, default=RESULTS / "verification.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write JSON; returns the exit status."""
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    results = measure(options.work, options.scenes, options.llm)
    rows = []
    for name, figures in results.items():
        values = (figures.get(key) for key in COLUMNS)
        rows.append((name, *("-" if x is None else f"{x:.3g}" for x in values)))
    print(table(("preset, LLM", *COLUMNS.values()), rows))
    write(options.out, {"machine": machine(), "scenes": options.scenes, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

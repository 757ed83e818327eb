"""One process of several that answer together: python -m tests.evaluation.one_process OUT PORT.

Spawned by test_asking.py. Each has one device of its own, and writes down what it was asked.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any


def main() -> None:
    """Join the others and answer a share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("port")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.distributed.initialize(f"localhost:{options.port}", options.processes, options.process)
    from glamm_jax.evaluation import runner
    from glamm_jax.inference.chat import load
    from tests.evaluation.conftest import MODEL, miniworld

    asked: list[str] = []
    original = runner.predict

    def watched(assistant: Any, records: Any, items: Any, *sizes: int) -> Any:
        asked.extend(item.id for item in items)
        return original(assistant, records, items, *sizes)

    runner.predict = watched
    found = miniworld("refseg", 2)
    runner.predict_all(load(MODEL), found.records, found.items, options.out, 8, 8)
    (options.out / f"asked-{options.process}.json").write_text(json.dumps(asked))


if __name__ == "__main__":
    main()

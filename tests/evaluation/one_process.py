"""One process of an evaluation by several: python -m tests.evaluation.one_process OUT PORT.

Started by test_runner.py. It has one device, and writes the ids that it predicted to a file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any


def main() -> None:
    """Join the other processes and predict a share of the items."""
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

    predicted: list[str] = []
    original = runner.predict

    def recording(assistant: Any, records: Any, items: Any, *sizes: int) -> Any:
        predicted.extend(item.id for item in items)
        return original(assistant, records, items, *sizes)

    runner.predict = recording
    item_set = miniworld("refseg", 2)
    runner.predict_all(load(MODEL), item_set.records, item_set.items, options.out, 8, 8)
    (options.out / f"predicted-{options.process}.json").write_text(json.dumps(predicted))


if __name__ == "__main__":
    main()

"""Say how much of each stage of a run is finished.

examples:
  glamm-jax annotate status out/run
  glamm-jax annotate status out/run --json

done: images with a result; failed: the stage itself has an error; skipped: a stage that it needs
has one; rejected: the image cannot be used; missing: not processed yet. The times are those of one
worker.

Exit status: 0 every stage is finished; 1 images are missing; 2 it is not the folder of a run.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import import_module

from glamm_jax.cli.annotate.usage_table import usage_lines
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import model_usage, stage_times
from glamm_jax.report.text_table import text_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    folder = AnnotationRun.open(options.run)
    stages, times = folder.status(), stage_times(folder)
    if options.json:
        print(json.dumps([asdict(stage) for stage in stages], indent=1))
    else:
        header = ("stage", "done", "failed", "skipped", "rejected", "missing", "ms/image")
        rows = [
            (
                *(stage.name, stage.done, stage.failed, stage.skipped, stage.rejected),
                stage.missing,
                _milliseconds(times[stage.name].seconds_per_image),
            )
            for stage in stages
        ]
        print(f"{folder.path}: {folder.num_images:,} images of {folder.root}")
        print(text_table(header, rows))
        for line in usage_lines(model_usage(folder)):
            print(line)
        for stage in stages:
            for chunk in stage.quarantined:
                path = folder.chunk_path(stage.name, stage.fingerprint, chunk, "quarantine")
                print(f"failed several times: chunk {chunk} of {stage.name}: {path}")
    return 1 if any(stage.missing for stage in stages) else 0


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1000 * seconds:.2f}"


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["status", *sys.argv[1:]]))

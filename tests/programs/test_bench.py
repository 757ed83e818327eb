"""The benchmarks count correctly, run, and report errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import conversion, cpu, gpu
from bench.measure import interleaved, median, table
from glamm_jax.aot import flops
from glamm_jax.config import CLIP_L14_336, LLAMA_7B, SAM_VIT_H, LlamaConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("counted", "anchor"),
    [
        # anchors.md 4.7, in FLOP; given there to this many digits.
        (flops.clip(CLIP_L14_336), 0.366e12),
        (flops.sam_encoder(SAM_VIT_H), 5.96e12),
        (flops.llama_linears(LLAMA_7B, 775), 10.04e12),
        (flops.llama_attention(LLAMA_7B, 775), 0.157e12),
        (flops.llama_head(LLAMA_7B, 775), 0.203e12),
    ],
)
def test_flops_are_those_of_the_anchors(counted: int, anchor: float) -> None:
    assert counted == pytest.approx(anchor, rel=3e-3)


@pytest.mark.parametrize(("rows", "anchor"), [(1, 13.69e9), (32, 28.3e9)])
def test_bytes_of_a_step_are_those_of_the_anchors(rows: int, anchor: float) -> None:
    assert flops.llama_step_bytes(LLAMA_7B, rows, 900) == pytest.approx(anchor, rel=3e-3)


def test_a_phase_takes_as_long_as_its_scarcer_resource() -> None:
    options = gpu.parse(["--peak-tflops", "1", "--bandwidth", "2"])
    assert gpu.Work(10**12, 10**12).seconds(options) == 1.0
    assert gpu.Work(10**12, 4 * 10**12).seconds(options) == 2.0


def test_runs_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = interleaved(runs, repeats=2)
    assert calls == list("ababab")
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert median([3.0, 1.0, 2.0]) == 2.0


def test_a_slow_case_stops_at_its_time_but_is_run_three_times() -> None:
    assert len(interleaved({"a": lambda: None}, repeats=50, seconds=0.0)["a"]) == 3


def test_table_is_aligned_markdown() -> None:
    assert table(["case", "ms"], [["a", "10"], ["longer", "9"]]).splitlines() == [
        "| case   | ms |",
        "|--------|---:|",
        "| a      | 10 |",
        "| longer |  9 |",
    ]


@pytest.mark.parametrize("case", ["llama", "decode1"])
def test_cpu_benchmark_compares_and_writes(tmp_path: Path, case: str) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "cpu.json"
    assert cpu.main(["--tiny", "--only", case, "--repeats", "2", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["ratio"] == pytest.approx(row["torch_ms"] / row["jax_ms"])
    assert len(row["all_jax_ms"]) == 2


@pytest.mark.parametrize(
    ("case", "units"),
    [
        ("prefill", ["tok"] * 4),
        pytest.param("decode", ["tok"] * 2, marks=pytest.mark.slow),
        pytest.param("gcg", ["img"], marks=pytest.mark.slow),
    ],
)
def test_gpu_benchmark_runs_dry_at_tiny_size(tmp_path: Path, case: str, units: list[str]) -> None:
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--only", case, "--gcg-batch", "2", "--repeats", "1", "--out", str(out)]
    assert gpu.main(options) == 0
    result = json.loads(out.read_text())
    assert [row["unit"] for row in result["rows"]] == units
    assert all(row["per_second"] > 0 for row in result["rows"])
    for row in result["rows"]:
        assert row["share"] == pytest.approx(row["per_second"] / row["limit_per_second"])


def test_without_a_gpu_the_benchmark_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "no GPU: jax finds 'cpu'" in capsys.readouterr().out


@pytest.mark.parametrize("program", [cpu, gpu])
def test_an_unknown_case_is_named_with_the_choices(
    program: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.main(["--only", "clap"])
    assert "unknown case clap: choose from" in capsys.readouterr().err


def test_gpu_benchmark_imports_nothing_a_bare_gpu_machine_lacks() -> None:
    code = "import sys, bench.gpu; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for absent in ("'grain'", "'tensorflow_datasets'", "'torch'", "'tensorflow'"):
        assert absent not in done.stdout


def test_conversion_is_measured_against_a_copy(tmp_path: Path) -> None:
    out = tmp_path / "conversion.json"
    assert conversion.main(["--tiny", "--repeats", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text("utf-8"))
    assert result["bytes"] > 0
    assert set(result["all_ms"]) == {"copy", "convert"}


@pytest.mark.slow
def test_the_full_size_job_runs_step_by_step(tmp_path: Path) -> None:
    out = tmp_path / "full_size.json"
    arguments = ["--tiny", "--work", str(tmp_path / "work"), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "bench.full_size", *arguments], cwd=ROOT, check=True)
    steps = [step["name"] for step in json.loads(out.read_text("utf-8"))["steps"]]
    assert steps == [
        *("write", "digest", "copy", "convert"),
        *("export glamm", "export clip", "compare", "answer"),
    ]
    assert not (tmp_path / "work" / "model").exists()


def test_grouped_queries_shrink_keys_values_and_their_cache() -> None:
    """By hand: 4 query heads and 1 key head of width 6; dim 8, MLP 10, 2 layers, 20 tokens."""
    config = LlamaConfig(20, 8, 10, 2, 4, num_kv_heads=1, head_width=6, tie_embeddings=True)
    weights = 2 * (8 * 24 + 2 * 8 * 6 + 24 * 8 + 3 * 8 * 10)
    assert flops.llama_linears(config, 3) == 2 * 3 * weights
    assert flops.llama_attention(config, 5) == 2 * 2 * 2 * 5 * 24 * 5 // 2
    cache = 7 * 9 * 2 * 2 * 6  # rows, tokens, keys and values, layers, width
    assert flops.llama_step_bytes(config, 7, 9) == 2 * (weights + 8 * 20 + cache)

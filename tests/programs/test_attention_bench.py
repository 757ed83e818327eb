"""The benchmarks of attention and of packed rows run."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from bench import attention, packing


def test_dense_attention_needs_more_memory_than_blocks() -> None:
    case = attention.AttentionCase(1, 2048, 1, 1, 8, 8, True, True, True)
    dense, blocks = (
        attention.compile_case(case, name, jnp.float32)["temporaries_mib"]
        for name in ("dense", "blockwise")
    )
    assert dense > 2048**2 * 4 / 2**20 > 4 * blocks


@pytest.mark.slow  # compiles three training steps, half a minute
def test_packed_and_unpacked_steps_have_the_same_loss(tmp_path: Path) -> None:
    path = tmp_path / "packing.json"
    assert packing.main(["--tiny", "--json", str(path)]) == 0
    ways = json.loads(path.read_text(encoding="utf-8"))["ways"]
    assert [way["rows"] for way in ways.values()] == [8, 8, 2]
    assert ways["packed"]["row_fill"] > ways["fixed"]["row_fill"]

"""The table of kernels: what runs on which chip, at the sizes of the released model."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from glamm_jax.aot.chips import CHIPS
from glamm_jax.nn import attention as attention_module
from glamm_jax.nn import attention_kernels as module
from glamm_jax.nn.attention_kernels import FAMILIES, AttentionSize, choose_kernel
from glamm_jax.nn.splash_attention import block_sizes

# Attentions of the released model, in bfloat16.
SIZES = {
    "SAM window": AttentionSize(196, 196, 108),
    "SAM global": AttentionSize(4096, 4096, 208),
    "CLIP": AttentionSize(577, 577, 64),
    "LLaMA": AttentionSize(1536, 1536, 128),
    "LLaMA packed": AttentionSize(1536, 1536, 128, is_packed=True),
    "mask decoder": AttentionSize(7, 4096, 32),
}
EXPECTED = {
    "tpu": ("dense", "splash", "splash", "splash", "splash", "dense"),
    "hopper": ("cudnn", "cudnn", "cudnn", "cudnn", "cudnn", "cudnn"),
    "ampere": ("cudnn", "blockwise", "cudnn", "cudnn", "cudnn", "cudnn"),
    "gpu": ("dense", "blockwise", "dense", "blockwise", "blockwise", "dense"),
    "cpu": ("dense", "blockwise", "dense", "blockwise", "blockwise", "dense"),
}


@pytest.mark.parametrize("chip", [*CHIPS, "cpu"])
def test_the_kernel_follows_the_chip(chip: str) -> None:
    chosen = tuple(choose_kernel(FAMILIES[chip], size) for size in SIZES.values())
    assert chosen == EXPECTED[FAMILIES[chip]]


@pytest.mark.parametrize("family", EXPECTED)
def test_long_attention_never_needs_quadratic_memory(family: module.Family) -> None:
    for width in (64, 128, 208, 256, 512):
        for is_half in (False, True):
            for is_packed in (False, True):
                size = AttentionSize(8192, 8192, width, is_half, is_packed)
                kernel = choose_kernel(family, size)
                assert kernel in ("blockwise", "splash", "cudnn")
                assert kernel != "cudnn" or (is_half and not is_packed)


@pytest.mark.parametrize(
    ("platform", "capability", "family"),
    [
        ("cpu", None, "cpu"),
        ("tpu", None, "tpu"),
        ("gpu", "7.5", "gpu"),
        ("gpu", "8.0", "ampere"),
        ("gpu", "8.9", "ampere"),
        ("gpu", "9.0", "hopper"),
        ("gpu", "10.0", "hopper"),
        ("gpu", "gfx942", "gpu"),  # an AMD GPU
    ],
)
def test_the_family_follows_the_device(
    platform: str, capability: str | None, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "platform", lambda: platform)
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(module.jax, "local_devices", lambda: [device])
    assert module.chip_family() == family


@pytest.mark.parametrize("packed", [False, True])
def test_attention_runs_the_chosen_kernel(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(attention_module, "chip_family", lambda: "tpu")
    monkeypatch.setattr(
        attention_module,
        "choose_kernel",
        lambda family, size: (sizes.append((family, size)), "blockwise")[1],
    )
    x = jnp.ones((1, 5, 2, 8), jnp.bfloat16)
    row = jnp.zeros((1, 5), int)
    segments = attention_module.Segments(row, row - 1) if packed else None
    out = jax.eval_shape(lambda x: attention_module.attention(x, x, x, segments=segments), x)
    assert out.shape == x.shape
    assert sizes == [("tpu", AttentionSize(5, 5, 8, is_packed=packed))]


@pytest.mark.parametrize(
    ("length", "row_bytes", "block"),
    [
        (1536, 256, 768),  # LLaMA, bfloat16: two blocks
        (1536, 512, 512),  # float32: three
        (4096, 512, 512),  # SAM, 208 wide, padded to 256
        (577, 256, 640),  # CLIP: one, padded
        (2816, 256, 1024),  # 22 x 128, of which only 128 and 256 would divide it
        (40, 256, 128),
        (1536, 2**20, 128),
    ],
)
def test_blocks_of_splash_follow_the_shape(length: int, row_bytes: int, block: int) -> None:
    blocks = block_sizes(length, length, row_bytes)
    assert blocks["block_q"] == blocks["block_kv"] == block
    assert block % blocks["block_kv_compute"] == 0
    assert -(-length // block) * block - length < block

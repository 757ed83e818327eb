"""A model is placed on one device if it fits, else on all; what fits nowhere is refused."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from glamm_jax.inference import placement
from glamm_jax.inference.chat import load
from glamm_jax.inference.placement import choose_mesh
from glamm_jax.parallel import MeshError, MeshSizes, bytes_on_device, parse_mesh
from glamm_jax.weights.folder import ModelFolder

MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"
FOLDER = ModelFolder(MODEL)
WEIGHTS = sum(info.nbytes for info in FOLDER.infos.values())
CACHE = 2 * 3 * 512 * 128 * 4  # of a row: keys and values, layers, positions, width, float32


def limit(monkeypatch: pytest.MonkeyPatch, nbytes: float) -> None:
    """Give each device so much memory."""
    monkeypatch.setattr(placement, "memory_limit", lambda: int(nbytes))


def test_on_processors_there_is_one_device() -> None:
    assert choose_mesh(FOLDER) is None
    assert choose_mesh(FOLDER, rows=1000, copies=True) is None
    device = jax.devices()[3]
    mesh = choose_mesh(FOLDER, devices=[device])
    assert mesh is not None and [*mesh.devices.flat] == [device]


def test_a_model_that_fits_one_device_is_there_or_has_a_copy_on_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, (WEIGHTS + CACHE) / 0.8 + 9)
    assert choose_mesh(FOLDER) is None
    copies = choose_mesh(FOLDER, copies=True)
    assert copies is not None and copies.devices.shape == (8, 1, 1)


@pytest.mark.parametrize("more", [{"rows": 2}, {"copies": True, "rows": 2}])
def test_a_model_that_does_not_fit_one_device_is_spread(
    monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    limit(monkeypatch, (WEIGHTS + CACHE) / 0.8 + 9)  # the cache of two rows is too large
    mesh = choose_mesh(FOLDER, **more)
    assert mesh is not None
    assert mesh.devices.shape == (1, 4, 2)  # the model has two heads
    three = choose_mesh(FOLDER, devices=jax.devices()[:3], **more)
    assert three is not None and three.devices.shape == (1, 1, 2)  # three divide nothing


def test_the_dtype_decides_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, (WEIGHTS + CACHE / 2) / 0.8 + 9)  # the weights are stored in bfloat16
    assert choose_mesh(FOLDER, "bfloat16") is None
    assert choose_mesh(FOLDER) is not None
    limit(monkeypatch, (2 * WEIGHTS + CACHE) / 0.8 - 9)
    assert choose_mesh(FOLDER) is None
    assert choose_mesh(FOLDER, "float32") is not None


def test_a_model_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, WEIGHTS / 16)
    with pytest.raises(MeshError, match=r"do not fit 8 x cpu with .* use more devices, bfloat16"):
        choose_mesh(FOLDER)
    with pytest.raises(MeshError, match=r"GiB of weights on each device, .* or use bfloat16"):
        choose_mesh(FOLDER, sizes=MeshSizes(tensor=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor=4", r"tensor=4 does not divide llama.num_heads = 2 of this model; use tensor=1 "),
        ("fsdp=3", r"fsdp=3 does not divide llama.hidden_dim = 128 .* use fsdp=1 or 2 or 4 or 8"),
        ("data=2,fsdp=8", r"a mesh of data 2 x fsdp 8 x tensor 1 has 16 devices, .* are 8: make"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(MeshError, match=message):
        load(MODEL, mesh=text)


@pytest.mark.parametrize("text", ["", "4", "fsdp", "fsdp=0", "fsdp=x", "rows=2", "fsdp=2,fsdp=2"])
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(MeshError, match=r"is not AXIS=SIZE .* as in fsdp=4,tensor=2"):
        parse_mesh(text)


def test_a_loaded_model_says_where_it_is() -> None:
    alone, spread = load(MODEL), load(MODEL, mesh="fsdp=4,tensor=2")
    assert alone.placement() == "1 x cpu: 0.01 GiB of weights"
    assert spread.placement().startswith("8 x cpu, data 1 x fsdp 4 x tensor 2: 0.00 GiB of weights")
    assert bytes_on_device(alone.generator.state) == WEIGHTS
    part = bytes_on_device(spread.generator.state)
    assert WEIGHTS / 8 < part < WEIGHTS / 5
    mesh = choose_mesh(FOLDER, sizes=parse_mesh("tensor=2, fsdp=4"))
    assert mesh == spread.mesh

"""Logical axes become mesh axes; arrays that cannot be sharded raise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import PartitionSpec

from glamm_jax.nn.linear import Linear
from glamm_jax.parallel import (
    MeshError,
    ShardingRules,
    constrain,
    current_mesh,
    make_mesh,
    partition_spec,
    sharding,
    shardings,
    use_mesh,
)


def test_logical_axes_become_the_mesh_axes_of_the_rules() -> None:
    with use_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        assert partition_spec(("embed", "mlp"), (8, 8)) == PartitionSpec(("fsdp",), ("tensor",))
        assert partition_spec(("batch", None), (8, 8)) == PartitionSpec(("data", "fsdp"), None)


def test_a_dimension_that_its_axes_do_not_divide_keeps_the_leading_part_that_does() -> None:
    with use_mesh(make_mesh(data=2, fsdp=4)):
        assert partition_spec(("batch",), (8,)) == PartitionSpec(("data", "fsdp"))
        assert partition_spec(("batch",), (6,)) == PartitionSpec(("data",))
        assert partition_spec(("batch",), (3,)) == PartitionSpec(None)


def test_a_mesh_axis_of_one_device_places_nothing() -> None:
    with use_mesh(make_mesh(data=2)):
        assert partition_spec(("embed", "mlp"), (8, 8)) == PartitionSpec(None, None)


def test_two_dimensions_on_one_mesh_axis_raise_and_name_both() -> None:
    with (
        use_mesh(make_mesh(tensor=2)),
        pytest.raises(ValueError, match=r"'heads' and 'mlp' are both sharded over 'tensor'"),
    ):
        partition_spec(("heads", "mlp"), (8, 8))


def test_an_unknown_logical_axis_raises_with_its_name() -> None:
    with use_mesh(make_mesh(data=2)), pytest.raises(ValueError, match="'hedas'"):
        partition_spec(("batch", "hedas"), (8, 8))


def test_axes_of_another_rank_raise() -> None:
    with use_mesh(make_mesh(data=2)), pytest.raises(ValueError, match="do not match"):
        partition_spec(("batch",), (8, 8))


def test_rules_with_an_unknown_mesh_axis_raise() -> None:
    with pytest.raises(ValueError, match=r"ShardingRules\.embed: no mesh axis \['model'\]"):
        ShardingRules(embed=("model",))


def test_too_large_a_mesh_says_how_many_devices_there_are() -> None:
    with pytest.raises(MeshError, match="a 16x1x1 mesh needs 16 devices, there are 8"):
        make_mesh(data=16)


def test_a_mesh_axis_without_devices_is_refused() -> None:
    with pytest.raises(MeshError, match="a 2x0x1 mesh: every axis needs at least one device"):
        make_mesh(data=2, fsdp=0)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 4, 2), (2, 2, 2), (1, 3, 2), (5, 1, 1)])
def test_devices_whose_interconnect_has_no_such_mesh_are_in_the_order_of_their_ids(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("Failed to find assignment for logical_axis_index 1")

    monkeypatch.setattr("glamm_jax.parallel.mesh_utils.create_device_mesh", fail)
    count = math.prod(shape)
    mesh = make_mesh(*shape, devices=jax.devices()[:count][::-1])
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert [device.id for device in mesh.devices.flat] == list(range(count))


def test_without_a_mesh_an_activation_stays_as_it_is() -> None:
    x = jnp.ones((2, 2))
    assert constrain(x, "batch", None) is x
    assert current_mesh() is None
    with pytest.raises(ValueError, match="use_mesh"):
        sharding(("batch",), (2,))


def test_constrain_spreads_an_activation_over_the_devices() -> None:
    with use_mesh(make_mesh(data=4, tensor=2)):
        y = jax.jit(lambda x: constrain(x, "batch", "mlp"))(jnp.arange(64.0).reshape(8, 8))
    assert len(y.addressable_shards) == 8
    assert y.addressable_shards[0].data.shape == (2, 4)
    np.testing.assert_array_equal(y, np.arange(64.0).reshape(8, 8))


def test_the_state_of_a_model_is_placed_by_the_axes_its_variables_carry() -> None:
    layer = Linear(8, 4, ("embed", "mlp"), rngs=nnx.Rngs(0))
    with use_mesh(make_mesh(fsdp=2, tensor=2)):
        state = nnx.state(layer)
        placed = jax.device_put(state, shardings(state))
    kernel = placed["kernel"].get_value()
    assert kernel.sharding.spec == PartitionSpec(("fsdp",), ("tensor",))
    np.testing.assert_array_equal(kernel, layer.kernel[...])


def test_a_parameter_without_axes_is_named() -> None:
    class Bare(nnx.Module):
        def __init__(self) -> None:
            self.weight = nnx.Param(jnp.zeros(2))

    with use_mesh(make_mesh(data=2)), pytest.raises(ValueError, match="weight has no logical"):
        shardings(nnx.state(Bare()))


def test_leaving_the_mesh_restores_the_one_outside() -> None:
    outer, inner = make_mesh(data=2), make_mesh(data=4)
    with use_mesh(outer):
        with use_mesh(inner):
            assert current_mesh() is inner
        assert current_mesh() is outer


@dataclass(frozen=True)
class FakeChip:
    """A chip of a TPU v5e that is not there: one of 2 x 4 of a slice, two processes each."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def slice_index(self) -> int:
        return self.id // 8

    @property
    def process_index(self) -> int:
        return self.id // 4

    @property
    def coords(self) -> tuple[int, int, int]:
        return self.id % 2, self.id % 8 // 2, 0


CHIPS = [FakeChip(index) for index in range(32)]


@pytest.mark.parametrize("shape", [(4, 8, 1), (8, 4, 1), (16, 1, 2), (8, 2, 2), (32, 1, 1)])
def test_the_data_axis_spans_slices_as_in_the_hybrid_mesh_of_jax(shape: tuple) -> None:
    data, fsdp, tensor = shape
    mixed = [CHIPS[index] for index in np.random.default_rng(0).permutation(32)]
    mesh = make_mesh(*shape, devices=mixed).devices
    slice_of = np.vectorize(lambda chip: chip.slice_index)(mesh)
    part = data // 4
    assert [*slice_of[::part, 0, 0]] == [0, 1, 2, 3]
    assert (slice_of == np.repeat(np.arange(4), part)[:, None, None]).all()
    assert {*mesh.flat} == {*CHIPS}
    ordered = sorted(mixed, key=lambda chip: chip.slice_index)
    hybrid = mesh_utils.create_hybrid_device_mesh(
        (part, fsdp, tensor), (4, 1, 1), ordered, allow_split_physical_axes=True
    )
    assert (mesh == hybrid).all()


def test_with_several_processes_those_of_a_slice_are_adjacent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    mesh = make_mesh(8, 4, 1, devices=CHIPS[::-1]).devices
    assert [chip.id for chip in mesh.flat] == [*range(32)]


def test_whole_slices_may_be_left_out() -> None:
    mesh = make_mesh(2, 8, 1, devices=CHIPS).devices
    assert {chip.slice_index for chip in mesh.flat} == {0, 1}
    assert {chip.slice_index for chip in make_mesh(1, 8, 1, devices=CHIPS).devices.flat} == {0}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 16, 1),
            r"2x16x1 mesh over 4 TPU slices: data = 2 must be a multiple .* a multiple of "
            r"4, and mesh.fsdp x mesh.tensor to divide the 8 devices of a slice",
        ),
        ((1, 32, 1), "data = 1 must be a multiple of the number of slices"),
        ((3, 4, 1), r"12 devices has 8, 4 devices of 2 TPU slices; all must have the same number"),
    ],
)
def test_a_mesh_that_the_slices_cannot_divide_is_an_error(shape: tuple, message: str) -> None:
    with pytest.raises(MeshError, match=message):
        make_mesh(*shape, devices=CHIPS)


def test_nodes_of_gpus_are_no_slices() -> None:
    gpus = [FakeChip(index, "gpu", "NVIDIA A100") for index in range(16)]
    assert make_mesh(1, 16, 1, devices=gpus).shape["fsdp"] == 16

"""Eight devices train as one does, have an eighth of the model each, and gather single layers."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from glamm_jax.aot.collectives import exchanged_activations, gathered_shapes, gathered_stacks
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.collate import collate, join_slices
from glamm_jax.data.loader import open_batches
from glamm_jax.models.glamm import GLaMM
from glamm_jax.nn.mlp import MLP
from glamm_jax.parallel import make_mesh, shardings, use_mesh
from glamm_jax.training.initialization import random_model
from glamm_jax.training.placement import (
    BatchSlice,
    PlacementError,
    abstract_batch,
    abstract_split,
    place_batch,
    place_split,
    process_slice,
    state_shardings,
)
from glamm_jax.training.placement_table import (
    MIB,
    parts_table,
    place_parts,
    step_memory,
    total_memory,
)
from glamm_jax.training.state import ModelSplit, TrainState
from glamm_jax.training.step import Metrics, make_step
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state
from tests.training.sharded import first_split, gradient_errors, small_config

CONFIG = small_config()
# Float32 sums in another order. In the region pyramid, ReLUs switch within rounding.
TOLERANCE, PYRAMID_TOLERANCE = 1e-4, 3e-3
SHAPES = [
    *((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)),
    *((4, 2, 1), (2, 4, 1), (2, 1, 4), (1, 4, 2), (1, 2, 4), (4, 1, 2)),
]


class Trained(NamedTuple):
    """Result of one step, and its compiled program."""

    start: ModelSplit
    program: Any
    state: TrainState
    metrics: Metrics


def train_once(config: ExperimentConfig, model: GLaMM, batch: Batch) -> Trained:
    """Run the first step on the current mesh, or without one."""
    start = place_split(first_split(config, model))
    step: Any = make_step(config.model, config.optim, config.losses, config.seed)
    placed = place_batch(batch)
    program = step.lower(start.graphdef, start.frozen, start.state, placed).compile()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start.state
    )
    state, metrics = program(start.frozen, start.state, placed)
    return Trained(start._replace(state=shapes), program, state, metrics)


def empty_batch() -> Batch:
    """Return eight empty slices."""
    batch = collate([], CONFIG.model, CONFIG.data.batch_shape)
    return join_slices(dict.fromkeys(range(8), batch))


def first_batch(config: ExperimentConfig) -> Batch:
    with closing(open_batches(config.data, config.model)) as batches:
        return next(batches).batch


@pytest.fixture(scope="module")
def model() -> GLaMM:
    return random_model(CONFIG.model, CONFIG.seed)


@pytest.fixture(scope="module")
def alone(model: GLaMM) -> Trained:
    """One device."""
    return train_once(CONFIG, model, first_batch(CONFIG))


@pytest.fixture(scope="module")
def eight(model: GLaMM) -> Trained:
    """fsdp over eight devices."""
    with use_mesh(make_mesh(fsdp=8)):
        return train_once(CONFIG, model, first_batch(CONFIG))


def check_equal(result: Trained, reference: Trained) -> None:
    metrics, expected = result.metrics, reference.metrics
    np.testing.assert_allclose(metrics.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, expected.grad_norm, rtol=TOLERANCE)
    errors = gradient_errors(result.state, reference.state, floor=1e-3)
    pyramid = ("region_encoder.fusion", "region_encoder.input_proj")
    wrong = {
        leaf: error
        for leaf, error in errors.items()
        if error > (PYRAMID_TOLERANCE if leaf.startswith(pyramid) else TOLERANCE)
    }
    assert not wrong


@pytest.mark.slow  # compiling for eight devices takes a minute
def test_eight_devices_give_the_loss_and_the_gradients_of_one(
    alone: Trained, eight: Trained
) -> None:
    check_equal(eight, alone)


@pytest.mark.slow  # compiling for eight devices takes a minute
def test_a_step_leaves_the_state_where_it_was(eight: Trained) -> None:
    same = jax.tree.map(
        lambda before, after: after.sharding.is_equivalent_to(before.sharding, after.ndim),
        eight.start.state,
        eight.state,
    )
    assert jax.tree.all(same)
    assert eight.program.memory_analysis().alias_size_in_bytes >= device_bytes(eight.state)


def device_bytes(tree: Any) -> int:
    """Return the bytes of these arrays on one device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.slow  # compiling for eight devices takes a minute
def test_each_of_eight_devices_holds_an_eighth_of_the_model(eight: Trained) -> None:
    argument_bytes = eight.program.memory_analysis().argument_size_in_bytes
    arrays = (eight.start.frozen, eight.state)
    with use_mesh(make_mesh(fsdp=8)):
        batch = place_batch(first_batch(CONFIG))
    assert argument_bytes == pytest.approx(device_bytes(arrays) + device_bytes(batch), rel=0.02)
    kept = total_memory(place_parts(eight.start)).kept
    assert kept == device_bytes(arrays)
    temporaries = eight.program.memory_analysis().temp_size_in_bytes
    assert temporaries <= (step_memory(eight.program) or 0) <= 1.05 * temporaries
    # Only small arrays are replicated: gains, biases, tokens, patch embeddings.
    width = CONFIG.model.llama.hidden_dim
    for array in jax.tree.leaves(arrays):
        divided = array.addressable_shards[0].data.size * 8 == array.size
        assert divided or array.size <= 3 * width * width  # SAM's patches, 3 channels deep


@pytest.mark.slow  # compiling for eight devices takes a minute
def test_one_layer_is_gathered_at_a_time_and_never_a_whole_stack(eight: Trained) -> None:
    program, frozen = eight.program.as_text(), eight.start.frozen
    assert not gathered_stacks(program, frozen)
    width, mlp_width = CONFIG.model.llama.hidden_dim, CONFIG.model.llama.mlp_dim
    assert gathered_shapes(program) & {(width, mlp_width), (1, width, mlp_width)}


@pytest.mark.slow  # compiling for eight devices takes a minute
def test_devices_exchange_no_activation_of_the_whole_batch() -> None:
    config = small_config(regions=True)
    with use_mesh(make_mesh(data=2, fsdp=4)):
        split = abstract_split(config)
        slice_batch = collate([], config.model, config.data.batch_shape)
        batch = abstract_batch(slice_batch, config.data.batch_slices)
        step: Any = make_step(config.model, config.optim, config.losses, config.seed)
        lowered = step.lower(split.graphdef, split.frozen, split.state, batch)
        program = lowered.compile().as_text()
    exchanged = exchanged_activations(program, (split.frozen, split.state.trainable), 8)
    # The embedding table is divided by its width: the four devices of `fsdp`, not all eight,
    # exchange the ids of their 8 of 16 rows and the parts of their embeddings.
    tokens, part = config.data.batch_shape.tokens, config.model.llama.hidden_dim // 4
    own_rows, group_rows = config.data.batch_shape.rows, 4 * config.data.batch_shape.rows
    of_embeddings = {(group_rows, tokens), (own_rows, tokens, part), (group_rows, tokens, part)}
    assert exchanged <= {*of_embeddings, mask_tokens(config)}


def mask_tokens(config: ExperimentConfig) -> tuple[int, int]:
    """Return the shape of the gradient of the decoder's tokens, which are concatenated."""
    return (1 + 1 + config.model.sam.num_multimasks, config.model.sam.out_dim)


def test_an_exchanged_activation_is_told_from_a_parameter() -> None:
    frozen = abstract_split(CONFIG).frozen
    layers, width, mlp_width = flatten_state(frozen)["llama.layers.gate_proj.kernel"].shape
    program = f"""
        %a = (f32[], f32[1,{mlp_width},{width}]) all-reduce(%x, %y), channel_id=1
        %b = bf16[{layers},{width // 8},{mlp_width}]{{2,1,0}} all-gather-start(%z)
        %c = f32[8,200,{width}]{{2,1,0:T(8,128)}} all-gather(%activation), dimensions={{0}}
        %d = (f32[1,24,8], f32[1,24,8]) all-to-all(%pooled)
        %e = f32[7,7]{{1,0}} add(%c, %d)
    """
    assert exchanged_activations(program, (frozen,), 8) == {(8, 200, width), (24, 8)}


def test_a_stack_that_is_gathered_whole_is_named() -> None:
    frozen = abstract_split(CONFIG).frozen
    layers, width, mlp_width = flatten_state(frozen)["llama.layers.gate_proj.kernel"].shape
    line = f"%x = (f32[{layers},8,9]{{2,1,0}}, f32[{layers},{width},{mlp_width}]{{2,1,0}})"
    for program in (
        f"{line} all-gather-start(%y), dimensions={{1}}",
        f"%x = bf16[{layers},{width},{mlp_width}]{{2,1,0:T(8,128)}} all-gather(%y)",
    ):
        stacks = gathered_stacks(program, frozen)
        assert {"llama.layers.gate_proj.kernel", "llama.layers.up_proj.kernel"} <= set(stacks)


def test_moments_lie_beside_their_parameters(model: GLaMM) -> None:
    with use_mesh(make_mesh(fsdp=4, tensor=2)):
        places = state_shardings(first_split(CONFIG, model).state)
        parameters = flatten_state(places.trainable)
        moments: Any = next(x for x in places.opt_state if isinstance(x, dict))
        adam = moments["lm_head"][0]
        leaf = "llama.lm_head.kernel"
        assert adam.mu[leaf] == adam.nu[leaf] == parameters[leaf]
        assert parameters[leaf].spec == PartitionSpec(("fsdp",), None)  # 807 ids are odd
        assert adam.count.spec == places.step.spec == PartitionSpec()


def test_an_abstract_start_is_the_real_one_without_its_values(model: GLaMM) -> None:
    with use_mesh(make_mesh(fsdp=8)):
        abstract, real = abstract_split(CONFIG), place_split(first_split(CONFIG, model))
    describe = lambda x: (x.shape, x.dtype, x.sharding)  # noqa: E731
    for part in ("frozen", "state"):
        described = [jax.tree.map(describe, getattr(x, part)) for x in (abstract, real)]
        assert described[0] == described[1]
    parts = place_parts(real)
    assert place_parts(abstract) == parts
    memory = total_memory(parts)
    assert memory.frozen == device_bytes(real.frozen)
    assert memory.trainable + memory.optimizer == device_bytes(real.state)


def test_the_table_names_the_axes_that_divide_each_part() -> None:
    with use_mesh(make_mesh(fsdp=4, tensor=2)):
        parts = place_parts(abstract_split(CONFIG))
    assert parts["lm_head"].axes_text() == "fsdp"  # 807 ids are odd
    text = parts["LLaMA"].axes_text()
    assert re.fullmatch(r"fsdp x tensor 9\d.* %, others 0\.\d+ %", text), text
    with use_mesh(make_mesh()):
        alone = place_parts(abstract_split(CONFIG))
    assert alone["lm_head"].axes_text() == "replicated"
    assert alone["lm_head"].memory.frozen == 4 * parts["lm_head"].memory.frozen
    assert alone["lm_head"].memory.optimizer == 4 * parts["lm_head"].memory.optimizer
    [header, *_, total] = parts_table(parts, MIB)
    assert header.split() == [
        *("part", "frozen", "trained", "optimizer", "gradients", "sharded", "over"),
    ]
    sizes = [float(text) for text in total.removeprefix("all parts").split()]
    assert sizes == pytest.approx([size / MIB for size in total_memory(parts)], abs=0.006)


# ------------------------------------------------------------------------ batches


def test_a_batch_is_spread_over_data_and_fsdp() -> None:
    batch = empty_batch()
    with use_mesh(make_mesh(fsdp=2, tensor=4)):
        placed = place_batch(batch)
    assert placed.images.addressable_shards[0].data.shape[0] == 4
    assert placed.masks.sharding.spec == PartitionSpec(("fsdp",), None, None)
    np.testing.assert_array_equal(placed.token_ids, batch.token_ids)
    assert placed.segments is None


def test_without_a_mesh_a_batch_stays_as_it_is() -> None:
    batch = empty_batch()
    assert place_batch(batch) is batch


def test_slices_that_the_devices_cannot_divide_are_an_error() -> None:
    message = r"data.batch_slices = 8 cannot be divided among the 3 devices .* multiple of 3"
    with use_mesh(make_mesh(data=3)), pytest.raises(PlacementError, match=message):
        place_batch(empty_batch())


def test_a_stack_of_batches_is_spread_behind_its_first_axis() -> None:
    batch = empty_batch()
    stack = Batch(*(None if x is None else np.stack([x] * 3) for x in batch))
    with use_mesh(make_mesh(data=2)):
        placed = place_batch(stack, stacked=True)
    assert placed.token_ids.sharding.spec == PartitionSpec(None, ("data",), None)


class Device(NamedTuple):
    """The attributes of a device that `process_slice` uses."""

    process_index: int
    id: int


class Devices(NamedTuple):
    """A mesh with nothing but its devices."""

    devices: np.ndarray


@pytest.mark.parametrize(
    ("shape", "per_process", "expected"),
    [
        ((1, 8, 1), 8, BatchSlice(0, 1)),
        ((1, 8, 1), 2, BatchSlice(0, 4)),
        ((2, 2, 2), 2, BatchSlice(0, 4)),
        ((1, 2, 4), 2, BatchSlice(0, 2)),  # two processes share a slice
        ((1, 1, 8), 1, BatchSlice(0, 1)),
    ],
)
def test_a_process_makes_the_piece_of_its_devices(
    monkeypatch: pytest.MonkeyPatch, shape: tuple, per_process: int, expected: BatchSlice
) -> None:
    devices = np.empty(8, object)
    devices[:] = [Device(n // per_process, n) for n in range(8)]
    mesh = Devices(devices.reshape(shape))
    monkeypatch.setattr("glamm_jax.training.placement.current_mesh", lambda: mesh)
    assert process_slice() == expected


def test_scattered_devices_of_a_process_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = np.empty(4, object)
    devices[:] = [Device(n % 2, n) for n in range(4)]
    mesh = Devices(devices.reshape(1, 4, 1))
    monkeypatch.setattr("glamm_jax.training.placement.current_mesh", lambda: mesh)
    with pytest.raises(PlacementError, match=r"process 0 has the positions \[0, 2\] of 4"):
        process_slice()


# ------------------------------------------------------------------------ all meshes


def chain(mesh: Mesh | None) -> list[np.ndarray]:
    """Return the gradients of four consecutive layers."""
    graph, state = nnx.split(MLP((32, 32, 32, 32, 8), "silu", rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=(32, 1, n)).astype(np.float32) for n in (32, 8))
    loss = lambda state, x: (nnx.merge(graph, state)(x) * weight).sum()  # noqa: E731
    if mesh is not None:
        batch = jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        state, x = jax.device_put(state, shardings(state)), jax.device_put(x, batch)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(state, x))]


def test_layers_in_a_row_keep_their_gradients_on_a_mesh_of_all_axes() -> None:
    alone = chain(None)
    with use_mesh(make_mesh(2, 2, 2)) as mesh:
        sharded = chain(mesh)
    for one, other in zip(alone, sharded, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def with_regions() -> tuple[ExperimentConfig, GLaMM, Batch, Trained]:
    config = small_config(regions=True)
    model, batch = random_model(config.model, config.seed), first_batch(config)
    assert (batch.region_images >= 0).any()
    return config, model, batch, train_once(config, model, batch)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_mesh_gives_the_loss_and_the_gradients_of_one_device(
    with_regions: tuple[ExperimentConfig, GLaMM, Batch, Trained], shape: tuple[int, int, int]
) -> None:
    config, model, batch, alone = with_regions
    with use_mesh(make_mesh(*shape)):
        result = train_once(config, model, batch)
    check_equal(result, alone)

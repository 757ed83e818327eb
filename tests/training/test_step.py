"""The step is pure, donates its state alone, and forms no gradient for what is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import LossWeights
from glamm_jax.data.collate import collate, join_slices
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.data.loader import open_batches
from glamm_jax.training.initialization import random_model
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import part_of, trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.training.step import Metrics, make_step, stack_batches
from glamm_jax.types import Batch
from glamm_jax.weights.flat_state import flatten_state
from tests.small_experiment import get_config

CONFIG = get_config()


class Setup(NamedTuple):
    """A compiled step, where it starts, and a batch of each kind, all of one capacity."""

    step: Any
    start: ModelSplit
    batches: dict[str, Batch]

    def run(self, state: TrainState, kind: str) -> tuple[TrainState, Metrics]:
        """One step from a state, which it leaves whole."""
        copied = jax.tree.map(jnp.copy, state)
        return self.step(self.start.graphdef, self.start.frozen, copied, self.batches[kind])


@pytest.fixture(scope="module")
def setup() -> Setup:
    model = random_model(CONFIG.model, CONFIG.seed)
    # A fresh adapter ends in zeros, behind which dropout would not show.
    model.llama.layers.q_proj.lora.b[...] += 0.1
    start = split_model(
        model, trainable_filter(CONFIG.optim.trainable), make_optimizer(CONFIG.optim)
    )
    step = make_step(CONFIG.model, CONFIG.optim, CONFIG.losses, CONFIG.seed)
    ids = np.array([1, 5, 7, 9, 2], np.int32)
    words = collate(
        [Sample((TokenizedConversation(ids, ids),))], CONFIG.model, CONFIG.data.batch_shape
    )
    with closing(open_batches(CONFIG.data, CONFIG.model)) as batches:
        pictures = next(batches).batch
    return Setup(step, start, {"pictures": pictures, "words": join_slices({0: words})})


def moved_parts(before: TrainState, after: TrainState) -> set[str]:
    old, new = flatten_state(before.trainable), flatten_state(after.trainable)
    return {part_of(leaf) for leaf in old if not np.array_equal(old[leaf], new[leaf])}


def moments(state: TrainState) -> dict[str, Any]:
    """State of the optimizer, by part."""
    return next(each for each in state.opt_state if isinstance(each, dict))


def test_a_step_moves_what_its_batch_reaches_and_nothing_else(setup: Setup) -> None:
    first, metrics = setup.run(setup.start.state, "pictures")
    assert moved_parts(setup.start.state, first) == {"llama", "lm_head", "masks"}
    assert float(metrics.loss) == pytest.approx(float(metrics.ce + metrics.bce + metrics.dice))
    assert float(metrics.bce) > 0
    assert float(metrics.grad_norm) > 0
    assert float(metrics.learning_rate) == pytest.approx(0.5e-2)
    second, metrics = setup.run(first, "words")
    assert moved_parts(first, second) == {"llama", "lm_head"}
    assert float(metrics.bce) == float(metrics.dice) == 0.0
    assert float(metrics.learning_rate) == pytest.approx(1e-2)
    # The mask decoder's moments and its own count of steps stand still, too.
    old, new = (jax.tree.leaves(moments(state)["masks"]) for state in (first, second))
    assert all(np.array_equal(one, other) for one, other in zip(old, new, strict=True))
    counts = {part: int(inner[0].count) for part, inner in moments(second).items()}
    assert counts == {"llama": 2, "lm_head": 2, "masks": 1, "region_encoder": 0, "unread": 0}
    assert int(second.step) == 2


def test_state_is_donated_and_frozen_weights_are_not(setup: Setup) -> None:
    copied = jax.tree.map(jnp.copy, setup.start.state)
    setup.step(setup.start.graphdef, setup.start.frozen, copied, setup.batches["pictures"])
    assert all(x.is_deleted() for x in jax.tree.leaves(copied.trainable))
    assert not any(x.is_deleted() for x in jax.tree.leaves(setup.start.frozen))


def test_dropout_follows_from_the_seed_and_the_number_of_the_step(setup: Setup) -> None:
    state = setup.start.state
    losses = [
        float(setup.run(state._replace(step=jnp.asarray(n, jnp.int32)), "words")[1].loss)
        for n in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow  # compiles two more steps
def test_accumulated_batches_are_one_big_batch(setup: Setup) -> None:
    lora = CONFIG.model.lora
    assert lora is not None
    config = replace(CONFIG.model, lora=replace(lora, dropout=0.0))  # no two shapes draw the same
    two = [setup.batches["pictures"], setup.batches["words"]]
    # Of unlike halves, the mean of two means is not the mean of all.
    assert two[0].target_valid.sum() != two[1].target_valid.sum()
    big = join_slices(dict(enumerate(two)))
    found = []
    for number, batch in ((1, big), (2, stack_batches(two))):
        optim = replace(CONFIG.optim, accumulation_steps=number)
        model = random_model(config, CONFIG.seed)
        start = split_model(model, trainable_filter(optim.trainable), make_optimizer(optim))
        step = make_step(config, optim, CONFIG.losses)
        found.append(step(start.graphdef, start.frozen, start.state, batch))
    (one, told), (other, also_told) = found
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), told, also_told)
    # After one step, the first moments are the gradients but for a factor.
    for part, (ours, *_) in moments(one).items():
        for leaf, theirs in moments(other)[part][0].mu.items():
            error = float(jnp.linalg.norm(ours.mu[leaf] - theirs))
            assert error <= 1e-4 * float(jnp.linalg.norm(theirs)) + 1e-9, leaf


def test_a_step_that_is_not_finite_changes_nothing_but_the_count(setup: Setup) -> None:
    def spoil(path: Any, value: Any) -> Any:
        return value * jnp.nan if "lm_head" in jax.tree_util.keystr(path) else value

    broken = jax.tree_util.tree_map_with_path(spoil, setup.start.state.trainable)
    before = setup.start.state._replace(trainable=broken)
    after, metrics = setup.run(before, "words")
    assert bool(metrics.skipped)
    assert int(after.step) == int(before.step) + 1
    for old, new in zip(jax.tree.leaves(before[1:]), jax.tree.leaves(after[1:]), strict=True):
        np.testing.assert_array_equal(old, new)


def products(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Sorted shapes of all matrix products in a program, inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(sorted(equation.outvars[0].aval.shape))
        parameters = list(equation.params.values())
        for inner in jax.tree.leaves(parameters, is_leaf=lambda x: hasattr(x, "eqns")):
            program = getattr(inner, "jaxpr", inner)
            if hasattr(program, "eqns"):
                yield from products(program)


@pytest.mark.parametrize(("trained", "formed"), [("released", False), ("everything", True)])
def test_no_gradient_is_formed_for_a_frozen_weight(
    setup: Setup, trained: Any, formed: bool
) -> None:
    optim = replace(CONFIG.optim, trainable=trained)
    model = nnx.merge(setup.start.graphdef, setup.start.state.trainable, setup.start.frozen)
    graphdef, frozen, state = split_model(model, trainable_filter(trained), make_optimizer(optim))
    step: Any = make_step(CONFIG.model, optim, LossWeights())
    program = step.trace(graphdef, frozen, state, setup.batches["pictures"])
    shapes = set(products(program.jaxpr.jaxpr))
    width, mlp_width = CONFIG.model.llama.hidden_dim, CONFIG.model.llama.mlp_dim
    assert ((width, mlp_width) in shapes) == formed  # gate_proj, up_proj, down_proj
    assert (width, CONFIG.model.llama.vocab_size) in shapes  # lm_head is trained in both


@pytest.mark.slow
def test_the_iou_head_is_trained_on_request_only(setup: Setup) -> None:
    before = flatten_state(setup.start.state.trainable)
    step: Any = make_step(CONFIG.model, CONFIG.optim, replace(CONFIG.losses, iou=1.0))
    state = jax.tree.map(jnp.copy, setup.start.state)
    arguments = (setup.start.graphdef, setup.start.frozen, state, setup.batches["pictures"])
    trained, metrics = step(*arguments)
    released, released_metrics = setup.run(setup.start.state, "pictures")
    head = [name for name in before if ".iou_head." in name and name.endswith("bias")]
    assert head
    for name in head:
        same = flatten_state(released.trainable)[name] == before[name]
        assert bool(np.all(same))
        assert bool(np.any(flatten_state(trained.trainable)[name] != before[name]))
    assert released_metrics.iou is None
    parts = (metrics.ce, metrics.bce, metrics.dice, metrics.iou)
    assert float(metrics.loss) == pytest.approx(sum(map(float, parts)), rel=1e-5)

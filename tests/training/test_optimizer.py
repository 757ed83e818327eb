"""What is trained, at which learning rate, and that the optimizer is torch's, with unused parts."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import GLaMMConfig, released, tiny, with_lora
from glamm_jax.config.experiment import OptimConfig, TrainableSet
from glamm_jax.data.collate import build_batch, collate
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.models.glamm import GLaMM
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import (
    PARAMETER_GROUPS,
    part_of,
    trainable_filter,
    used_parts,
)
from glamm_jax.training.schedule import learning_rate
from glamm_jax.weights.flat_state import flatten_state, state_shapes
from glamm_jax.weights.glamm import glamm_table

PARTS = {group.part for group in PARAMETER_GROUPS}


def trained_shapes(config: GLaMMConfig, name: TrainableSet) -> dict[str, tuple[int, ...]]:
    model = nnx.eval_shape(lambda: GLaMM(config, rngs=nnx.Rngs(0)))
    return state_shapes(nnx.state(model, trainable_filter(name)))


def test_the_released_set_is_the_587_million_parameters_of_the_original() -> None:
    config = with_lora(released())
    trained = trained_shapes(config, "released")
    assert sum(int(np.prod(shape)) for shape in trained.values()) == 587_427_044
    tensors = [e.tensor for e in glamm_table(config).mappings() if e.leaf in trained]
    adapters = [name for name in tensors if "lora_" in name]
    assert (len(tensors) - len(adapters), len(adapters)) == (169, 128)


def test_the_sets_differ_as_their_names_say() -> None:
    config = with_lora(tiny())
    sets = {name: set(trained_shapes(config, name)) for name in TrainableSet.__args__}
    starts = {name: {leaf.partition(".")[0] for leaf in leaves} for name, leaves in sets.items()}
    heads = {"llama", "region_encoder", "text_projection", "sam"}
    assert starts["released"] == heads
    assert starts["paper"] == starts["all_but_encoders"] == heads | {"projector"}
    assert starts["everything"] == heads | {"projector", "clip"}
    assert {leaf for leaf in sets["paper"] if leaf.startswith("llama.")} == {
        leaf for leaf in sets["everything"] if ".lora." in leaf
    }
    assert not any("sam.encoder" in leaf for leaf in sets["all_but_encoders"])
    assert "sam.prompt_encoder.frequencies" not in sets["everything"]  # a constant


def test_every_leaf_belongs_to_a_part() -> None:
    leaves = trained_shapes(with_lora(tiny()), "everything")
    assert {part_of(leaf) for leaf in leaves} == PARTS


def test_trap_29_the_rate_climbs_linearly_and_falls_linearly_to_zero() -> None:
    config = OptimConfig(peak_lr=1.0, warmup_steps=4, total_steps=14)
    rates = [float(learning_rate(config)(jnp.asarray(n))) for n in (0, 1, 3, 4, 9, 13, 14, 20)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 1, 1, 0.5, 0.1, 0, 0], rtol=1e-6)
    constant = learning_rate(replace(config, schedule="constant"))
    np.testing.assert_allclose([constant(0), constant(4), constant(13)], [0.25, 1, 1])


# ------------------------------------------------------------------------ the rule itself


class Toy(nnx.Module):
    """Two parts of a model."""

    def __init__(self) -> None:
        self.llama = nnx.Dict(a=nnx.Param(jnp.array([1.0, -2.0, 3.0])))
        self.region_encoder = nnx.Dict(b=nnx.Param(jnp.array([[0.5, -0.5]])))


OPTIM = OptimConfig(
    peak_lr=0.1, schedule="constant", warmup_steps=0, weight_decay=0.05, trainable="everything"
)
# Of every step: the gradients; None where the batch does not use the part.
GRADIENTS = [
    ([3.0, 4.0, 0.0], [[1.0, 2.0]]),
    ([0.1, 0.2, 0.3], None),
    ([-1.0, 0.5, 0.0], None),
    ([0.2, 0.0, 0.1], [[-0.3, 0.1]]),
    ([1.0, -1.0, 1.0], [[0.5, 0.5]]),
]


def run_optimizer(config: OptimConfig) -> list[dict[str, np.ndarray]]:
    """Return the parameters after every step."""
    state = nnx.state(Toy())
    optimizer = make_optimizer(config)
    opt_state, history = optimizer.init(state), []
    for a, b in GRADIENTS:
        gradients = nnx.state(Toy())
        gradients["llama"]["a"].set_value(jnp.array(a))
        zeros = jnp.zeros((1, 2))
        gradients["region_encoder"]["b"].set_value(zeros if b is None else jnp.array(b))
        used = {part: jnp.array(True) for part in PARTS}
        used["region_encoder"] = jnp.array(b is not None)
        updates, opt_state = optimizer.update(gradients, opt_state, state, used=used)
        state = jax.tree.map(lambda p, u: p + u, state, updates)
        history.append({name: np.asarray(x) for name, x in flatten_state(state).items()})
    return history


def test_skipping_is_torchs_adamw_with_parameters_that_have_no_gradient() -> None:
    torch = pytest.importorskip("torch")
    model = flatten_state(nnx.state(Toy()))
    params = {name: torch.tensor(np.array(x), requires_grad=True) for name, x in model.items()}
    adamw = torch.optim.AdamW(
        params.values(), lr=0.1, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=0.05
    )
    for (a, b), values in zip(GRADIENTS, run_optimizer(OPTIM), strict=True):
        for name, gradient in (("llama.a", a), ("region_encoder.b", b)):
            params[name].grad = None if gradient is None else torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        adamw.step()
        for name, value in values.items():
            np.testing.assert_allclose(value, params[name].detach().numpy(), rtol=1e-5)


def test_with_zero_an_untouched_part_is_moved_by_momentum() -> None:
    skipped, zeroed = run_optimizer(OPTIM), run_optimizer(replace(OPTIM, unused_parts="zero"))
    name = "region_encoder.b"
    np.testing.assert_array_equal(skipped[2][name], skipped[0][name])
    assert (np.abs(zeroed[2][name] - zeroed[0][name]) > 0.01).all()
    for one, other in zip(skipped, zeroed, strict=True):
        np.testing.assert_array_equal(one["llama.a"], other["llama.a"])


# ------------------------------------------------------------------ what a batch uses


def sample(config: GLaMMConfig, *ids: int, **fields) -> Sample:
    array = np.array([1, *ids, 7, 2], np.int32)
    labels = np.where(np.arange(len(array)) < len(array) - 2, IGNORE_ID, array)
    side, canvas = config.clip.image_size, config.sam.image_size
    if IMAGE_ID in ids:
        fields["image"] = np.zeros((side, side, 3), np.uint8)
    if "masks" in fields:
        fields["grounding_image"] = np.zeros((canvas, canvas, 3), np.uint8)
        fields |= {"resized_size": (canvas, canvas), "original_size": (5, 7)}
    return Sample(conversations=(TokenizedConversation(array, labels.astype(np.int32)),), **fields)


def parts_used_by(config: GLaMMConfig, *kinds: str) -> set[str]:
    """Return the parts that a batch of these samples uses; its shape has space for every kind."""
    seg, region = config.tokens.seg, config.tokens.region
    box, mask = np.array([[0, 0, 1, 1]], np.float32), np.ones((1, 5, 7), np.uint8)
    samples = {
        "text": sample(config, 5),
        "image": sample(config, IMAGE_ID, 5),
        "region": sample(config, IMAGE_ID, region, boxes_xyxy_unit=box),
        "boxes nobody mentions": sample(config, IMAGE_ID, boxes_xyxy_unit=box),
        "mask": sample(config, IMAGE_ID, seg, masks=mask),
        "seg without truth": sample(config, IMAGE_ID, seg, masks=None),
    }
    shape = build_batch([*samples.values()], config).required_shape
    batch = collate([samples[kind] for kind in kinds], config, shape)
    return {part for part, used in used_parts(batch, config).items() if used}


TEXT, IMAGE = {"llama", "lm_head"}, {"llama", "lm_head", "clip", "projector"}


@pytest.mark.parametrize(
    ("kinds", "parts"),
    [
        (("text",), TEXT),
        (("image",), IMAGE),
        (("region", "text"), IMAGE | {"region_encoder"}),
        (("boxes nobody mentions",), IMAGE),
        (("text", "mask"), IMAGE | {"masks"}),
        (("seg without truth",), IMAGE),
        (("mask", "region"), IMAGE | {"masks", "region_encoder"}),
    ],
)
def test_a_batch_touches_what_it_speaks_of_whatever_its_capacity(
    tiny_config: GLaMMConfig, kinds: tuple[str, ...], parts: set[str]
) -> None:
    assert parts_used_by(tiny_config, *kinds) == parts

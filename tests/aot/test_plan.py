"""The plan counts what the anchors count, and divides memory among devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glamm_jax.aot.chips import CHIPS, GIB
from glamm_jax.aot.plan import Plan, plan
from glamm_jax.config import paper, released, with_lora
from glamm_jax.config.experiment import DataConfig, ExperimentConfig, MixtureEntry, OptimConfig
from glamm_jax.parallel import MeshSizes
from glamm_jax.training.placement_table import DeviceMemory, PartPlacement
from glamm_jax.types import BatchShape
from tests.small_experiment import get_config

# A GCG sample of the anchors: 775 tokens, all of them supervised, three masks.
GCG = BatchShape(1, 775, 775, 1, 0, 0, 1, 3, 0, 0)
# A region sample: 675 tokens, one box, no SAM.
REGION = BatchShape(1, 675, 675, 1, 1, 1)


def data(shape: BatchShape, slices: int = 1) -> DataConfig:
    """Return a mixture whose tasks fit the batch shape."""
    task = "region" if shape.regions else "gcg"
    return DataConfig((MixtureEntry("anything", (task,)),), batch_shape=shape, batch_slices=slices)


def full_size(shape: BatchShape, slices: int = 1) -> ExperimentConfig:
    model = replace(with_lora(released()), compute_dtype="bfloat16")
    return ExperimentConfig(model, data(shape, slices))


@pytest.fixture(scope="module")
def eight() -> Plan:
    """Eight samples on eight devices."""
    return plan(full_size(GCG, slices=8), MeshSizes(fsdp=8))


def test_parameters_are_those_of_the_released_model(eight: Plan) -> None:
    assert sum(part.parameters for part in eight.parts.values()) == 8_012_620_080
    assert sum(part.trained for part in eight.parts.values()) == 587_427_044
    assert eight.parts["LLaMA"].trained == eight.parts["SAM encoder"].trained == 0
    adapters = eight.parts["adapters"]
    assert adapters.trained == adapters.parameters == 32 * 2 * 2 * 8 * 4096


def test_operations_of_a_gcg_sample_are_those_of_the_anchors(eight: Plan) -> None:
    assert eight.step_flops / 8 == pytest.approx(27.56e12, rel=1e-3)
    forward = sum(part.forward for part in eight.parts.values())
    assert forward / 8 == pytest.approx(16.77e12, rel=1e-3)
    recomputed = sum(part.recomputed for part in eight.parts.values())
    assert recomputed / 8 == pytest.approx((37.76 - 27.56) * 1e12, rel=2e-3)
    # 7.15 samples a second and chip at the peak of v5e, half of it here.
    assert 1 / eight.step_seconds(CHIPS["v5e"]) == pytest.approx(7.15 / 2, rel=2e-3)


def test_operations_of_a_region_sample_are_those_of_the_anchors() -> None:
    # CLIP's levels are projected before they are upsampled: 0.103 TFLOP less, twice.
    result = plan(full_size(REGION))
    assert result.step_flops == pytest.approx((32.89 - 0.2) * 1e12, rel=2e-3)


def test_padding_is_no_work(eight: Plan) -> None:
    """Half of the tokens, all images: half of the linear layers, a quarter of the attention."""
    full = {name: 1.0 for names in eight.quota_flops for name in names}
    assert eight.filled_flops(full) == eight.filled_flops({}) == eight.step_flops
    fewer = eight.step_flops - eight.filled_flops({**full, "tokens": 0.5})
    llama, adapters = eight.parts["LLaMA"], eight.parts["adapters"]
    attention = eight.quota_flops["tokens", "tokens"]
    linears = llama.forward + llama.backward + adapters.forward + adapters.backward - attention
    assert fewer == pytest.approx(linears / 2 + attention * 3 / 4)
    # An empty batch has no work; a quota that the batch does not have counts as filled.
    assert eight.filled_flops(dict.fromkeys(full, 0.0)) == 0


def test_each_of_eight_devices_holds_an_eighth(eight: Plan) -> None:
    frozen, trained = 7_425_193_036, 587_427_044
    assert eight.memory.frozen == pytest.approx(2 * frozen / 8, rel=0.01)
    # The adapters' second matrices, 8 MB, are replicated.
    assert eight.memory.trainable == pytest.approx(4 * trained / 8 + 7.3e6, rel=0.01)
    assert eight.memory.optimizer == pytest.approx(2 * eight.memory.trainable, rel=1e-6)
    assert eight.memory.gradients == eight.memory.trainable


def test_the_text_names_parts_and_chips_and_what_does_not_fit(eight: Plan) -> None:
    text = eight.text()
    assert "587" not in text.splitlines()[0]
    for name in (*eight.parts, *CHIPS, "frozen", "optimizer"):
        assert name in text
    assert "does not fit" not in text
    assert "a step: 8 rows, 8 images; on each device 1 batch of 1 rows, 1 images" in text
    lines = text.splitlines()
    assert any(line.startswith("lm_head") and line.endswith("  fsdp") for line in lines)
    too_large = PartPlacement(DeviceMemory(frozen=20 * GIB), {})
    alone = replace(eight, placements=eight.placements | {"LLaMA": too_large})
    assert "v5e" in next(line for line in alone.text().splitlines() if "does not fit" in line)


def test_the_trained_set_decides_what_is_formed_backward() -> None:
    config = get_config()
    released_set = plan(config)
    everything = plan(replace(config, optim=OptimConfig(trainable="everything")))
    for name in ("CLIP", "SAM encoder", "V-L projector"):
        assert released_set.parts[name].backward == 0 < everything.parts[name].backward
    llama = "LLaMA"
    assert released_set.parts[llama].backward < everything.parts[llama].backward
    assert everything.memory.frozen < released_set.memory.frozen


def test_regions_of_the_paper_go_through_the_shared_projector() -> None:
    shape = replace(REGION, tokens=512)
    model = with_lora(paper(), "paper")
    shared = plan(ExperimentConfig(model, data(shape), OptimConfig(trainable="paper")))
    own = plan(full_size(shape))
    assert shared.parts["V-L projector"].backward > own.parts["V-L projector"].backward == 0
    assert shared.parts["embeddings"].trained == 0

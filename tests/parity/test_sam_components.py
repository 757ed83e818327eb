"""The checks of SAM take their sizes from the folder, and name every array that was changed.

The recordings here are small ones of this library: they test the comparison, not the model.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import SAMConfig
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.models.sam.sam import SAM
from glamm_jax.weights.sam import sam_table
from tools.parity.golden_model import golden_module
from tools.parity.recipes import generate_inputs
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile
from tools.parity.sam_components import check_image_encoder, check_prompt_mask_decoder

SALT = "other:"
CONFIG = SAMConfig(
    image_size=64, hidden_dim=16, num_layers=3, num_heads=2, global_blocks=(1,), out_dim=16
)
ENCODER_INFO = {
    "salt": SALT,
    "weights_prefix": "g.image_encoder.",
    "dim": 16,
    "depth": 3,
    "heads": 2,
    "global_attn": [1],
    "input": "blocky('small',(1,3,64,64),16,salt)",
}
DECODER_INFO = {
    "salt": SALT,
    "weights_prefix": "g.",
    "post": {"post0": {"resize": [64, 43], "orig": [30, 20]}},
    "inputs": "normal('input:e',(1,16,4,4)), normal('input:text{n}',(n,1,16))",
}


def channels_first(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def sampled(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the entries with which golden files store a large array."""
    index = np.arange(0, x.size, 3)
    exact = x.astype(np.float64)
    stats = [exact.mean(), exact.std(), np.linalg.norm(exact), exact.min(), exact.max()]
    return {
        f"{name}__val": x.reshape(-1)[index],
        f"{name}__idx": index,
        f"{name}__shape": np.array(x.shape),
        f"{name}__stats": np.array(stats, np.float64),
    }


@pytest.fixture(scope="module")
def small_sam() -> SAM:
    return golden_module(
        lambda: SAM(CONFIG, rngs=nnx.Rngs(0)), sam_table(CONFIG), prefix="g.", salt=SALT
    )


@pytest.fixture(scope="module")
def encoder_recording(small_sam) -> dict[str, np.ndarray]:
    (pixels,) = generate_inputs(ENCODER_INFO["input"], SALT)
    graph, values = nnx.split(small_sam.encoder)

    @jax.jit
    def run(values, pixels):
        encoder = nnx.merge(graph, values)
        x = encoder.run_blocks(encoder.embed_patches(pixels), 0, 2)
        return encoder.patch_embed(pixels), x, encoder.neck(encoder.run_blocks(x, 2, 3))

    patches, block, embedding = run(values, pixels.transpose(0, 2, 3, 1))
    return {
        **sampled("in/pixels", pixels),
        "patch_embed": np.asarray(patches),
        "block1": np.asarray(block),
        **sampled("image_embedding", channels_first(embedding)),
    }


@pytest.fixture(scope="module")
def decoder_recording(small_sam) -> dict[str, np.ndarray]:
    # This recipe does not name the salt, although the file is made with it.
    image, text = map(jnp.asarray, generate_inputs(DECODER_INFO["inputs"], SALT, SALT, n=2))
    sparse, dense = small_sam.prompt_encoder(text=text)
    positions = small_sam.prompt_encoder.dense_positions()
    graph, values = nnx.split(small_sam.mask_decoder)
    run = jax.jit(lambda values, *args: nnx.merge(graph, values)(*args))
    images = jnp.broadcast_to(image.transpose(0, 2, 3, 1), dense.shape)
    masks, iou = run(values, images, positions, sparse, dense)
    resized, original = (jnp.tile(jnp.asarray(size), (2, 1)) for size in ((64, 43), (30, 20)))
    return {
        **sampled("in/image_embedding", np.asarray(image)),
        "dense_pe": channels_first(positions[None]),
        "n2/in_text_embeds": np.asarray(text),
        "n2/sparse": np.asarray(sparse),
        **sampled("n2/dense", channels_first(dense)),
        **sampled("n2/low_res_masks", np.asarray(masks[:, :1])),
        "n2/iou": np.asarray(iou[:, :1]),
        "n2/multimask_low_res": np.asarray(masks[:, 1:]),
        "n2/multimask_iou": np.asarray(iou[:, 1:]),
        "n2/post0": np.asarray(postprocess_masks(masks[:, 0], resized, original, 64, (30, 20))),
    }


def run(check, info: dict, values: dict, tmp_path: Path) -> ComparisonReport:
    path = tmp_path / "components.npz"
    np.savez(path, **values)
    report = ComparisonReport()
    with RecordedFile.open(report, "components", path) as recorded:
        check(recorded, info)
    return report


CASES = {
    "encoder": (check_image_encoder, ENCODER_INFO, "encoder_recording"),
    "decoder": (check_prompt_mask_decoder, DECODER_INFO, "decoder_recording"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_other_sizes_and_salts_are_read_from_the_folder(case, request, tmp_path):
    check, info, fixture = CASES[case]
    values = request.getfixturevalue(fixture)
    report = run(check, info, values, tmp_path)
    assert report.failures == []
    names = {name.split("__")[0] for name in values}
    assert {row.name for row in report.rows if row.verdict == "equal"} == names


@pytest.mark.parametrize("case", list(CASES))
def test_every_changed_array_is_named(case, request, tmp_path):
    check, info, fixture = CASES[case]
    values = {name: x.copy() for name, x in request.getfixturevalue(fixture).items()}
    names = [name for name in values if not name.endswith(("__idx", "__shape", "__stats"))]
    for name in names:
        values[name].reshape(-1)[1] += 1e-2
    values["extra"] = np.zeros(3)
    report = run(check, info, values, tmp_path)
    assert {row.name for row in report.failures} == {n.split("__")[0] for n in names} | {"extra"}
    assert report.exit_code == 1


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("key", ["salt", "weights_prefix"])
def test_a_missing_key_of_an_entry_is_an_error_that_names_it(case, key, request, tmp_path):
    check, info, fixture = CASES[case]
    info = {name: value for name, value in info.items() if name != key}
    with pytest.raises(GoldenError, match=key):
        run(check, info, request.getfixturevalue(fixture), tmp_path)


def test_a_recorded_block_that_the_model_lacks_fails(encoder_recording, tmp_path):
    report = run(
        check_image_encoder, ENCODER_INFO, {**encoder_recording, "block7": np.zeros(3)}, tmp_path
    )
    assert [row.name for row in report.failures] == ["block7"]


def test_a_recipe_is_parsed_not_executed():
    with pytest.raises(ValueError, match="has no call"):
        generate_inputs("__import__('os').getcwd()")
    with pytest.raises(ValueError, match="cannot read"):
        generate_inputs("normal('x', (-2, 2))")
    with pytest.raises(ValueError, match="cannot read"):
        generate_inputs("normal('x' 3)")
    with pytest.raises(ValueError, match="cannot read"):
        generate_inputs("normal('x', (m, 2))", n=1)
    assert [
        x.shape for x in generate_inputs("normal('a{n}',(n,2)), blocky('b',(1,1,4,4),2,salt)", n=3)
    ] == [
        (3, 2),
        (1, 1, 4, 4),
    ]

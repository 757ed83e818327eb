"""Every kernel agrees with softmax attention written out in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.nn.attention import Backend, attention, decode_attention
from glamm_jax.nn.attention_mask import Segments
from glamm_jax.parallel import make_mesh, use_mesh


def _qkv(b: int, t: int, s: int, n: int, width: int, value_width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = ((b, t, n, width), (b, s, n, width), (b, s, n, value_width))
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def _reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    causal: bool,
    key_valid: np.ndarray | None,
) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = scale * np.einsum("btnk,bsnk->bnts", q, k)
    if causal:
        visible = np.tril(np.ones(scores.shape[-2:], bool))
        scores = np.where(visible[None, None], scores, -np.inf)
    if key_valid is not None:
        scores = np.where(key_valid[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnk->btnk", weights, v)


def _some_keys_invalid(b: int, s: int) -> np.ndarray:
    valid = np.random.default_rng(1).random((b, s)) < 0.7
    valid[:, 0] = True  # so that every causal query sees some key
    return valid


@pytest.mark.parametrize("kernel", ["blockwise", "dense", "splash"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_every_kernel_is_softmax_attention(kernel: Backend, causal: bool, padded: bool) -> None:
    length = 140 if kernel == "splash" else 37  # no multiple of 128
    q, k, v = _qkv(2, length, length, 2, 24, 16)
    valid = _some_keys_invalid(2, length) if padded else None
    actual = attention(
        *map(jnp.asarray, (q, k, v)),
        scale=0.3,
        causal=causal,
        key_valid=None if valid is None else jnp.asarray(valid),
        backend=kernel,
    )
    expected = _reference(q, k, v, 0.3, causal, valid)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


def test_queries_and_keys_may_differ_in_number() -> None:
    q, k, v = _qkv(1, 5, 33, 2, 8, 8)
    actual = attention(*map(jnp.asarray, (q, k, v)))
    expected = _reference(q, k, v, 8**-0.5, False, None)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


def test_what_a_padded_key_holds_does_not_matter() -> None:
    q, k, v = map(jnp.asarray, _qkv(1, 6, 6, 1, 8, 8))
    valid = jnp.array([[True, True, True, True, False, False]])
    changed = attention(q, k.at[:, 4:].set(9.0), v.at[:, 4:].set(-9.0), key_valid=valid)
    np.testing.assert_array_equal(attention(q, k, v, key_valid=valid), changed)


def test_a_padded_query_looks_at_the_valid_keys_and_a_blind_row_stays_finite() -> None:
    q, k, v = _qkv(2, 4, 4, 1, 8, 8)
    valid = np.array([[True, True, False, False], [False] * 4])
    out = np.asarray(attention(*map(jnp.asarray, (q, k, v)), key_valid=jnp.asarray(valid)))
    expected = _reference(q[:1], k[:1], v[:1], 8**-0.5, False, valid[:1])
    np.testing.assert_allclose(out[:1], expected, rtol=2e-5, atol=2e-6)
    assert np.isfinite(out).all()


def test_bfloat16_in_bfloat16_out_with_a_float32_softmax() -> None:
    q, k, v = _qkv(1, 64, 64, 1, 16, 16)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*half)
    assert out.dtype == jnp.bfloat16
    exact = _reference(*(np.asarray(x, np.float64) for x in half), 0.25, False, None)
    # One rounding of the weights and one of the result: 2^-8 each of values below 3.
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, atol=0.02)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_backend_raises_with_the_choices() -> None:
    x = jnp.zeros((1, 2, 1, 8))
    with pytest.raises(ValueError, match="auto, dense, blockwise, cudnn or splash"):
        attention(x, x, x, backend="flash")


def test_one_token_attends_to_the_valid_ones_before_it_and_to_itself() -> None:
    """The second row has nothing before it: it sees itself."""
    keys = iter(jax.random.split(jax.random.key(0), 3))
    q, k, v = (jax.random.normal(next(keys), (2, 6, 3, 4)) for _ in range(3))
    valid = jnp.asarray([[True, False, True, True, False], [False] * 5])
    before = [x[:, :5].transpose(0, 2, 1, 3) for x in (k, v)]
    actual = decode_attention(q[:, 5:], k[:, 5:], v[:, 5:], *before, valid)
    itself = jnp.ones((2, 1), bool)
    expected = attention(q[:, 5:], k, v, key_valid=jnp.concatenate([valid, itself], axis=1))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(actual[1], v[1, 5:], atol=1e-5)


def _grouped(length: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Four query heads with two key heads, and the same with every key head repeated."""
    q, _, _ = _qkv(2, length, length, 4, 8, 8)
    _, k, v = _qkv(2, length, length, 2, 8, 8)
    repeated = [np.repeat(x, 2, axis=2) for x in (k, v)]
    return [jnp.asarray(x) for x in (q, k, v)], [jnp.asarray(x) for x in (q, *repeated)]


def _replace_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the same function of jax with the kernel that a CPU has."""
    original = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *x, implementation, **options: original(*x, implementation="xla", **options),
    )


def test_cudnn_masks_the_segments_of_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_cudnn(monkeypatch)
    q, k, v = map(jnp.asarray, _qkv(1, 9, 9, 2, 8, 8))
    segments = Segments(
        jnp.asarray([[0, 0, 0, 1, 1, 2, 2, 3, 3]]), jnp.asarray([[-1, -1, -1, 0, 0, 0, 0, -1, -1]])
    )
    actual, expected = (
        attention(q, k, v, causal=True, segments=segments, backend=backend)
        for backend in ("cudnn", "dense")
    )
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ["dense", "blockwise", "splash", "cudnn"])
def test_a_key_head_serves_its_group_of_query_heads(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped, repeated = _grouped(128 if backend == "splash" else 16)
    valid = jnp.asarray(_some_keys_invalid(*grouped[0].shape[:2]))
    _replace_cudnn(monkeypatch)
    actual = attention(*grouped, causal=True, key_valid=valid, backend=backend)
    expected = _reference(*map(np.asarray, repeated), 8**-0.5, True, np.asarray(valid))
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


def test_a_step_of_grouped_queries_is_that_of_repeated_keys() -> None:
    grouped, repeated = _grouped(9)
    valid = jnp.asarray(_some_keys_invalid(2, 8))

    @jax.jit
    def step(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        cached = [x[:, :-1].transpose(0, 2, 1, 3) for x in (k, v)]
        return decode_attention(q[:, -1:], k[:, -1:], v[:, -1:], *cached, valid)

    np.testing.assert_allclose(step(*grouped), step(*repeated), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tensor", [2, 4])
def test_splash_of_grouped_queries_on_a_mesh_that_divides_a_group(tensor: int) -> None:
    grouped, repeated = _grouped(128)
    with use_mesh(make_mesh(tensor=tensor)):
        actual = jax.jit(lambda *x: attention(*x, causal=True, backend="splash"))(*grouped)
    expected = _reference(*map(np.asarray, repeated), 8**-0.5, True, None)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)

"""Replacement of placeholder token embeddings by image and region features."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from glamm_jax.nn.batch_slices import take_in_slices
from glamm_jax.parallel import constrain


def place_features(
    embeddings: Float[Array, "b t d"],
    features: Float[Array, "f d"],
    source: Int[Array, "b t"],
    num_slices: int = 1,
) -> Float[Array, "b t d"]:
    """Replace the embedding of each token whose `source` is not -1 by a feature.

        source = [-1, 0, 1, -1]  ->  [embedding 0, feature 0, feature 1, embedding 3]

    Args:
        embeddings: token embeddings.
        features: image or region features.
        source: index of the feature of each token in its slice of the batch, or -1; computed by
            `glamm_jax.data.collate`.
        num_slices: of the batch.
    """
    if features.shape[0] == 0:
        return embeddings
    gathered = take_in_slices(features, jnp.maximum(source, 0), num_slices)
    gathered = gathered.astype(embeddings.dtype)
    return constrain(
        jnp.where((source >= 0)[..., None], gathered, embeddings), "batch", "sequence", None
    )

"""Replacement of placeholder token embeddings by image and region features."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from glamm_jax.parallel import constrain


def place_features(
    embeddings: Float[Array, "b t d"],
    features: Float[Array, "f d"],
    source: Int[Array, "b t"],
) -> Float[Array, "b t d"]:
    """Replace the embedding of each token whose `source` is not -1 by a feature.

        source = [-1, 0, 1, -1]  ->  [embedding 0, feature 0, feature 1, embedding 3]

    Args:
        embeddings: token embeddings.
        features: image or region features.
        source: index of the feature of each token, or -1; computed by `glamm_jax.data.collate`.
    """
    if features.shape[0] == 0:
        return embeddings
    gathered = features[jnp.maximum(source, 0)].astype(embeddings.dtype)
    return constrain(
        jnp.where((source >= 0)[..., None], gathered, embeddings), "batch", "sequence", None
    )

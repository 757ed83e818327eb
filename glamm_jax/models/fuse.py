"""Image and region features take their places in the sequence of token embeddings."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from glamm_jax.parallel import constrain


def place_features(
    embeddings: Float[Array, "b t d"],
    features: Float[Array, "f d"],
    source: Int[Array, "b t"],
) -> Float[Array, "b t d"]:
    """Replace each embedding whose `source` is not -1 by that feature.

        source = [-1, 0, 1, -1]  ->  [embedding 0, feature 0, feature 1, embedding 3]

    The integers are made in numpy by `glamm_jax.data.collate`; nothing here searches for tokens.
    """
    if features.shape[0] == 0:
        return embeddings
    chosen = features[jnp.maximum(source, 0)].astype(embeddings.dtype)
    return constrain(
        jnp.where((source >= 0)[..., None], chosen, embeddings), "batch", "sequence", None
    )

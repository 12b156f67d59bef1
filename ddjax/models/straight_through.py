"""Straight-through estimator of vector quantisation, for the training of tokenizers."""

import jax
import jax.numpy as jnp

from ddjax.method import codes
from ddjax.method.protocols import Autoencoded, Tokenizer


def straight_through(continuous: jax.Array, quantised: jax.Array) -> jax.Array:
    """The quantised values [...], whose gradient goes to the continuous ones as it is."""
    return continuous + jax.lax.stop_gradient(quantised - continuous)


def autoencode(model: Tokenizer, images: jax.Array) -> Autoencoded:
    """What `Tokenizer.autoencode` gives of a tokenizer with one code for each feature.

    Args:
      model: the tokenizer.
      images: [B, H, W, channels] in [-1, 1].
    """
    stop = jax.lax.stop_gradient
    features, codes_VC = model.features(images), model.codebook
    ids = codes.nearest_ids(features, codes_VC)
    quantised = codes_VC[ids]
    return Autoencoded(
        image=model.decode(straight_through(features, quantised)),
        features_BLC=features,
        ids_BL=ids,
        codebook=jnp.mean(jnp.sum((quantised - stop(features)) ** 2, axis=-1)),
        commitment=jnp.mean(jnp.sum((stop(quantised) - features) ** 2, axis=-1)),
    )

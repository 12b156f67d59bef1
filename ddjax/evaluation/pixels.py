"""Pixel values of images: [-1, 1] as models have them, [0, 1] for pictures, 8-bit levels."""

import jax
import jax.numpy as jnp
import numpy as np


def to_unit(images: np.ndarray) -> np.ndarray:
    """From [-1, 1], as models have them, to float32 in [0, 1], clamped; any shape."""
    return np.clip((np.asarray(images, np.float32) + 1) / 2, 0, 1)


def to_levels(images: jax.Array) -> jax.Array:
    """From [-1, 1] to uint8, as torchvision's `save_image` rounds: floor(127.5 x + 128), clamped.

    LlamaGen's and VAR's own evaluations round the same way.
    """
    return jnp.clip(jnp.floor(127.5 * images + 128.0), 0, 255).astype(jnp.uint8)


def of_levels(levels: jax.Array) -> jax.Array:
    """From uint8 to float32 in [-1, 1]."""
    return jnp.asarray(levels, jnp.float32) / 127.5 - 1

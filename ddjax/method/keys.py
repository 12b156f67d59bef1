"""PRNG keys: one stream for each purpose, one key for each image.

No two uses ever share randomness, and an image depends on its own number alone: not on the batch,
the device or the process that draws it.
"""

import zlib

import jax


def stream(seed: int, purpose: str) -> jax.Array:
    """The key, a scalar, of a purpose, such as "pairs" or "teacher.init", under a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))


def per_image(key: jax.Array, index_B: jax.Array) -> jax.Array:
    """Keys [B] of images, by their numbers."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B)


def noise(key: jax.Array, index_B: jax.Array, length: int, code_dim: int) -> jax.Array:
    """Standard normal noise [B, L, C]; row i depends on the key and index_B[i] alone.

    Args:
      key: of the stream.
      index_B: numbers of the images.
      length: L, tokens of an image.
      code_dim: C, width of a code.
    """
    draw = jax.vmap(lambda key: jax.random.normal(key, (length, code_dim)))
    return draw(per_image(key, index_B))

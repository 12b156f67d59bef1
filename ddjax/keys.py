"""Random keys: one stream a purpose, so that no two uses ever share randomness."""

import zlib

import jax


def stream(seed: int, purpose: str) -> jax.Array:
    """The key of a purpose, such as "pairs" or "teacher.init", under a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))


def noise(key: jax.Array, index_B: jax.Array, length: int, code_dim: int) -> jax.Array:
    """Standard normal noise [B, L, C] by counter: row i depends on the key and index_B[i] alone."""

    def one(index: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, index), (length, code_dim))

    return jax.vmap(one)(index_B)

"""Fingerprints of arrays, the same however an array is spread over devices.

Computed where the array lies: a sum modulo 2^32 over its numbers, each scrambled with its place by
a bijection (MurmurHash3's finaliser), twice. So any single change shows for certain, and others
but for one in 2^64. It guards against damage, not against malice.
"""

import jax
import jax.numpy as jnp


def fingerprints(arrays: dict[str, jax.Array]) -> dict[str, str]:
    """By name, the type, shape and fingerprint of arrays: "float32[2, 3] 0123456789abcdef"."""
    # One after another: of programs that do not wait for each other, simulated devices, which share
    # few threads, may each begin another, and wait for its messages for ever.
    sums = {name: jax.device_get(_sums(array)) for name, array in arrays.items()}
    return {
        name: f"{array.dtype}{list(array.shape)} {int(sums[name][0]):08x}{int(sums[name][1]):08x}"
        for name, array in arrays.items()
    }


@jax.jit
def _sums(array: jax.Array) -> jax.Array:
    """[2] uint32."""
    width = array.dtype.itemsize * 8
    bits = jax.lax.bitcast_convert_type(array, f"uint{width}").astype(jnp.uint32)
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    one = _scramble(bits ^ _scramble(place + jnp.uint32(1)))
    other = _scramble(one ^ _scramble(~place))
    return jnp.stack([jnp.sum(one, dtype=jnp.uint32), jnp.sum(other, dtype=jnp.uint32)])


def _scramble(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

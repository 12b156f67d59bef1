"""Codebooks: nearest codes, centring and scaling of code vectors."""

import jax
import jax.numpy as jnp


def nearest_ids(x: jax.Array, codes_VC: jax.Array) -> jax.Array:
    """Ids [...] of the codes nearest (plain L2) to the vectors x [..., C]; ties take the first."""
    inner = jnp.einsum("...c,vc->...v", x, codes_VC, precision=jax.lax.Precision.HIGHEST)
    square_V = jnp.sum(codes_VC**2, axis=-1)
    return jnp.argmin(jnp.broadcast_to(square_V, inner.shape) - 2 * inner, axis=-1).astype(
        jnp.int32
    )


def normalise_codes(codes_VC: jax.Array) -> jax.Array:
    """Codes [V, C], centred and scaled to root mean square norm 1; the exact map stays the same."""
    centred_VC = codes_VC - codes_VC.mean(axis=0, keepdims=True)
    scale = jnp.sqrt(jnp.mean(jnp.sum(centred_VC**2, axis=-1)))
    return centred_VC / jnp.where(scale > 0, scale, 1)


def unit(x: jax.Array) -> jax.Array:
    """Vectors [..., C] of norm 1 along the last axis (PyTorch's normalize: eps 1e-12)."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

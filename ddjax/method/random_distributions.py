"""Random distributions over random codes, where there is no teacher to check a flow map with."""

import jax
import jax.numpy as jnp


def random_distributions(vocab: int, code_dim: int, tokens: int) -> tuple[jax.Array, ...]:
    """Noise [N, C], log-probabilities [N, V] and a codebook [V, C] on the unit sphere.

    log p leans along a random direction of code space, more or less steeply from token to token,
    under noise: a teacher too prefers codes that are like each other.
    """
    keys_ = jax.random.split(jax.random.key(0), 5)
    codes_VC = jax.random.normal(keys_[0], (vocab, code_dim))
    codes_VC = codes_VC / jnp.linalg.norm(codes_VC, axis=-1, keepdims=True)
    steepness = jnp.exp(jax.random.uniform(keys_[1], (tokens, 1), minval=-0.7, maxval=1.8))
    lean = jax.random.normal(keys_[2], (tokens, code_dim)) @ codes_VC.T
    noise = jax.random.normal(keys_[3], (tokens, vocab))
    log_p = jax.nn.log_softmax(jnp.broadcast_to(steepness, lean.shape) * lean + noise)
    return jax.random.normal(keys_[4], (tokens, code_dim)), log_p, codes_VC

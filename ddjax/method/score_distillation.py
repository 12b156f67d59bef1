"""Score distillation in code space: the direction that carries a student's tokens to the teacher.

Distilled Decoding 2 (arXiv 2510.21003) trains a one-pass generator so that, given the earlier
tokens of its own image, each token is distributed as the teacher says. Both conditional
distributions live on the V known codes, the teacher's p_T and the student's own, of which a second
copy of the teacher, trained on the student's ids, gives the estimate p_F (ours: the paper trains a
diffusion head in its place). So both scores of a noised token are exact. In the variables of
`ddjax.method.flow`, y = r x + z with z standard normal:

    d/dy log p(y) = r E_p[c | y, r] - y,

and the Kullback-Leibler divergence of the noised mixtures, from student to teacher, has the
gradient E[r^2 (E_F[c | y, r] - E_T[c | y, r])] with respect to the token's vector x (its path-wise
form; arXiv 2311.18828, equation 7).
"""

import dataclasses

import jax
import jax.numpy as jnp

from ddjax.method.flow import posterior_logits


@dataclasses.dataclass(frozen=True)
class NoiseLevels:
    """Levels r of the noised tokens: log-uniform in `low`..`high`, one for each token.

    In the units of `ddjax.method.codes.normalise_codes`; at r = 0 there is noise alone.
    """

    low: float = 0.2
    high: float = 8.0

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Levels of any shape, float32."""
        low, high = jnp.log(self.low), jnp.log(self.high)
        return jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))


def straight_through(
    logits: jax.Array, codes_VC: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """The codes of the arg max, with the gradient of the expected code.

    Args:
      logits: of the student, [..., V].
      codes_VC: the codebook.
      temperature: of the softmax under which the code is expected.

    Returns:
      Ids [...], int32, and their codes [..., C].
    """
    ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    expected = jax.nn.softmax(logits / temperature, axis=-1) @ codes_VC
    return ids, expected + jax.lax.stop_gradient(codes_VC[ids] - expected)


def posterior_mean(
    log_p: jax.Array, y: jax.Array, r: jax.Array, codes_VC: jax.Array
) -> jax.Array:
    """E[c | y, r], [..., C], where codes have the probabilities p.

    Args:
      log_p: log-probabilities [..., V]; -inf for codes that are ruled out.
      y: noised vectors [..., C].
      r: levels [..., 1].
      codes_VC: the codebook, as `normalise_codes` gives it.
    """
    weights = jax.nn.softmax(posterior_logits(log_p, y, r, codes_VC), axis=-1)
    return jnp.einsum("...v,vc->...c", weights, codes_VC, precision=jax.lax.Precision.HIGHEST)


def direction(
    log_p_teacher: jax.Array,
    log_p_fake: jax.Array,
    x_BLC: jax.Array,
    r_BL: jax.Array,
    z_BLC: jax.Array,
    codes_VC: jax.Array,
) -> jax.Array:
    """What a descent subtracts from the tokens' vectors, [B, L, C]; no gradient flows into it.

    E_F - E_T of the module docstring, over the mean absolute difference of x and E_T in the image,
    so that all images and levels weigh alike (arXiv 2311.18828, equation 8).

    Args:
      log_p_teacher: of the teacher's sampling distribution, [B, L, V].
      log_p_fake: of the student's own distribution, likewise.
      x_BLC: the student's vectors, normalised as the codes.
      r_BL: levels.
      z_BLC: standard normal noise.
      codes_VC: the codebook, as `normalise_codes` gives it.
    """
    x_BLC, r = jax.lax.stop_gradient(x_BLC), r_BL[..., None]
    y = r * x_BLC + z_BLC
    teacher, fake = (
        posterior_mean(jax.lax.stop_gradient(log_p), y, r, codes_VC)
        for log_p in (log_p_teacher, log_p_fake)
    )
    scale = jnp.mean(jnp.abs(x_BLC - teacher), axis=(1, 2), keepdims=True)
    return (fake - teacher) / jnp.maximum(scale, 1e-6)


def loss(direction_BLC: jax.Array, x_BLC: jax.Array) -> jax.Array:
    """A scalar whose gradient with respect to x is the direction, averaged over images."""
    inner = jnp.sum(jax.lax.stop_gradient(direction_BLC) * x_BLC, axis=(1, 2))
    return jnp.mean(inner)

"""AR flow matching: the deterministic map from a token's noise to its id.

Distilled Decoding (arXiv 2412.17153), section 3.2. For one token with probabilities p over codes
c_1..c_V the flow from noise at t=0 to a code at t=1 is known in closed form. In the variables
r = t / (1 - t) and y = x / (1 - t) its singularity at t = 1 is gone:

    dy/dr = E[c | y, r],   y(0) = noise,   posterior logits = log p + r <y, c> - r^2 |c|^2 / 2,

and the token is the arg max of the posterior logits at the last r. Over standard normal noise the
token is distributed as p.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.method.codes import normalise_codes

# Up to here the steps of the grid are about even, behind it each is longer than the one before by
# the same factor. In the units of `normalise_codes`, as `reach`.
EVEN = 3.0


@dataclasses.dataclass(frozen=True)
class Solver:
    """Adams-Bashforth on the grid r_i = EVEN sinh(a i / steps), a such that it ends at `reach`.

    Attributes:
      steps: evaluations of the velocity for each token; one more goes into the start.
      order: 1 is Euler; the first steps have lower orders, from 2, as the slope's derivative at
        r = 0 is known.
      reach: the last r, in units of 1 / (root mean square norm of the codes). Codes nearer to each
        other than a few times that norm / reach may still be taken for one another there.
    """

    steps: int = 32
    order: int = 5
    reach: float = 60.0

    def grid(self) -> np.ndarray:
        """[steps + 1], float64: the values of r, from 0."""
        t = np.arange(self.steps + 1) / self.steps
        return EVEN * np.sinh(np.arcsinh(self.reach / EVEN) * t)

    def weights(self) -> np.ndarray:
        """[steps, order + 1], float64: y_{i+1} = y_i + sum_{j<order} weights[i, j] f_{i-j}
        + weights[i, order] f'(0).

        The integral over step i of the polynomial through the last slopes (Hairer, Norsett, Wanner,
        Solving ODEs I, III.5), for a grid whose steps are not equal; as long as there are fewer
        slopes than `order`, of the one that also has the derivative at r = 0.
        """
        r = self.grid()
        table = np.zeros((self.steps, self.order + 1))
        for i in range(self.steps):
            step, n = r[i + 1] - r[i], min(i + 1, self.order)
            nodes = (r[i - np.arange(n)] - r[i]) / step
            starting = i + 1 < self.order
            powers = np.arange(n + starting)
            conditions = nodes[None] ** powers[:, None]
            if starting:
                curvature = powers * nodes[-1] ** np.maximum(powers - 1, 0)
                conditions = np.concatenate([conditions, curvature[:, None]], axis=1)
            solved = np.linalg.solve(conditions, 1 / (powers + 1))
            table[i, :n] = step * solved[:n]
            if starting:
                table[i, -1] = step**2 * solved[n]
        return table


def posterior_logits(
    log_p: jax.Array, y: jax.Array, r: jax.Array | float, codes_VC: jax.Array
) -> jax.Array:
    """Unnormalised log posterior [..., V] of each code given y at r (module docstring).

    Args:
      log_p: log-probabilities [..., V] of the codes.
      y: [..., C].
      r: time, from 0.
      codes_VC: the codebook, as `normalise_codes` gives it.
    """
    # Full float32: the default on accelerators (TF32, bfloat16) moves tokens.
    inner = jnp.einsum("...c,vc->...v", y, codes_VC, precision=jax.lax.Precision.HIGHEST)
    half_square_V = jnp.sum(codes_VC**2, axis=-1) / 2
    return log_p + r * (inner - r * jnp.broadcast_to(half_square_V, inner.shape))


# Tokens solved at once: what they need stays in a cache, and a whole batch of images in memory.
PORTION = 256
# By the kernel for GPUs, which needs room for a copy of their log-probabilities.
_PORTION_OF_KERNEL = 4096
# Set to 0 where the kernel does not work, the environment takes the reference on GPUs too.
_KERNEL = "DDJAX_FLOW_KERNEL"
# What it is written in; from 0.12 on jax calls this deprecated.
_TRITON = "jax.experimental.pallas.triton"


def noise_to_ids(
    eps: jax.Array, log_p: jax.Array, codes_VC: jax.Array, solver: Solver
) -> jax.Array:
    """Map the noise of tokens to their ids under the given distributions.

    On an NVIDIA GPU by `ddjax.method.flow_kernel`, in float32; else by `reference_ids`.

    Args:
      eps: [..., C] standard normal noise.
      log_p: [..., V] log-probabilities, need not be normalised; -inf for codes that are ruled out.
      codes_VC: the codebook, in any position and scale.
      solver: the integration scheme.

    Returns:
      [...] int32 ids, -1 where a log-probability is not a number. Computed in float32 (float64 if
      `eps` is), whatever the other dtypes.
    """
    reference = functools.partial(reference_ids, solver=solver)
    wide = jnp.promote_types(eps.dtype, jnp.float32) == jnp.float64
    if wide or jax.default_backend() != "gpu" or os.environ.get(_KERNEL) == "0":
        return reference(eps, log_p, codes_VC)
    if not importlib.util.find_spec(_TRITON):
        return reference(eps, log_p, codes_VC)
    # What is computed on the CPU of a machine with a GPU takes the reference too.
    kernel = functools.partial(_ids, _solve_fused, _PORTION_OF_KERNEL, solver)
    return jax.lax.platform_dependent(eps, log_p, codes_VC, cuda=kernel, default=reference)


def reference_ids(
    eps: jax.Array, log_p: jax.Array, codes_VC: jax.Array, solver: Solver
) -> jax.Array:
    """`noise_to_ids` for every device and dtype."""
    return _ids(_solve, PORTION, solver, eps, log_p, codes_VC)


def _ids(
    solve: Callable[..., jax.Array], size: int, solver: Solver, eps: jax.Array, log_p: jax.Array,
    codes_VC: jax.Array,
) -> jax.Array:
    """Ids of tokens that are solved by `solve`, `size` at once."""
    dtype = jnp.promote_types(eps.dtype, jnp.float32)
    codes_VC = normalise_codes(codes_VC.astype(dtype))

    def portion(tokens: tuple[jax.Array, jax.Array]) -> jax.Array:
        eps_NC, log_p_NV = tokens
        return solve(eps_NC.astype(dtype), log_p_NV.astype(dtype), codes_VC, solver)

    # One axis of tokens: products over several are far slower on a CPU.
    tokens = tuple(x.reshape(-1, x.shape[-1]) for x in (eps, log_p))
    portions, rest = divmod(len(tokens[0]), size)
    if portions > 1:
        end = portions * size
        cut = tuple(x[:end].reshape(portions, size, x.shape[-1]) for x in tokens)
        ids = [jax.lax.map(portion, cut).reshape(-1)]
        ids += [portion(tuple(x[end:] for x in tokens))] if rest else []
    else:
        ids = [portion(tokens)]
    return jnp.concatenate(ids).reshape(eps.shape[:-1])


class Paths(NamedTuple):
    """Paths of tokens from their noise to their codes, at the times of a solver's grid.

    Attributes:
      t_K: times, from 0 to nearly 1.
      x_KNC: x at those times, the noise first, in the units of the noise: codes have mean zero and
        root mean square norm one, as `normalise_codes` makes them.
      log_posterior_KNV: log-probabilities of where a path ends, given x.
    """

    t_K: jax.Array
    x_KNC: jax.Array
    log_posterior_KNV: jax.Array


def noise_to_paths(
    eps_NC: jax.Array, log_p_NV: jax.Array, codes_VC: jax.Array, solver: Solver
) -> Paths:
    """The whole way that `noise_to_ids` goes; for looking at it, since K times as much is kept.

    Args:
      eps_NC: standard normal noise.
      log_p_NV: log-probabilities of the codes.
      codes_VC: the codebook.
      solver: the integration scheme.

    Returns:
      Paths at the `solver.steps + 1` times t = r / (1 + r) of the grid.
    """
    codes_VC = normalise_codes(codes_VC.astype(jnp.float32))
    log_p_NV = log_p_NV.astype(jnp.float32)
    r_K = jnp.asarray(solver.grid(), jnp.float32)
    _, later = _integrate(eps_NC, log_p_NV, codes_VC, solver, keep=True)
    y_KNC = jnp.concatenate([eps_NC[None], later])

    def posterior(of: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.nn.log_softmax(posterior_logits(log_p_NV, *of, codes_VC), axis=-1)

    return Paths(
        r_K / (1 + r_K), y_KNC / (1 + r_K[:, None, None]), jax.lax.map(posterior, (y_KNC, r_K))
    )


def _solve(
    eps_NC: jax.Array, log_p_NV: jax.Array, codes_VC: jax.Array, solver: Solver
) -> jax.Array:
    """Ids [N] of tokens, from codes as `normalise_codes` gives them."""
    y, _ = _integrate(eps_NC, log_p_NV, codes_VC, solver)
    posterior = posterior_logits(log_p_NV, y, float(solver.grid()[-1]), codes_VC)
    # A log-probability that is not a number has made y so; the arg max would be a code like any.
    ids = jnp.where(jnp.isnan(y).any(axis=-1), -1, jnp.argmax(posterior, axis=-1))
    return ids.astype(jnp.int32)


def _solve_fused(
    eps_NC: jax.Array, log_p_NV: jax.Array, codes_VC: jax.Array, solver: Solver
) -> jax.Array:
    """The same by the kernel."""
    from ddjax.method import flow_kernel  # for GPUs alone, and slow to import

    return flow_kernel.solve(eps_NC, log_p_NV, codes_VC, solver.grid(), solver.weights())


def _integrate(
    eps_NC: jax.Array,
    log_p_NV: jax.Array,
    codes_VC: jax.Array,
    solver: Solver,
    keep: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """The y [N, C] at the last r of the grid, and if kept those at all r but the first."""
    grid = jnp.asarray(solver.grid(), eps_NC.dtype)
    weights = jnp.asarray(solver.weights(), eps_NC.dtype)

    def slope(y: jax.Array, r: jax.Array) -> jax.Array:
        posterior = jax.nn.softmax(posterior_logits(log_p_NV, y, r, codes_VC), axis=-1)
        return jnp.einsum("...v,vc->...c", posterior, codes_VC, precision=jax.lax.Precision.HIGHEST)

    def step(carry: tuple, row: tuple) -> tuple:
        y, slopes = carry
        r, weights_row = row
        slopes = jnp.concatenate([slope(y, r)[None], slopes[:-1]])
        change = jnp.einsum(
            "o,o...c->...c", weights_row[:-1], slopes, precision=jax.lax.Precision.HIGHEST
        )
        y = y + change + weights_row[-1] * curvature
        return (y, slopes), y if keep else None

    # At r = 0 the slope does not depend on y, so this is its derivative along the path.
    start = jnp.zeros((), eps_NC.dtype)
    curvature = jax.jvp(lambda r: slope(eps_NC, r), (start,), (jnp.ones_like(start),))[1]
    slopes = jnp.zeros((solver.order, *eps_NC.shape), eps_NC.dtype)
    (y, _), path = jax.lax.scan(step, (eps_NC, slopes), (grid[:-1], weights))
    return y, path

"""Fused GPU kernel of the flow map: one program a token goes through all steps of the solver.

`ddjax.method.flow` says what is computed and is the reference. Between two steps its intermediate
values, [tokens, V] each, go through the GPU's memory; here they stay in registers, and the codes in
the cache that all programs share. A token's codes of probability zero, under top-k most of them,
are left out before the first step. Written in Pallas for Triton; float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# Numbers of code vectors that a program holds at once: 16 for each thread of its warps. With 32
# threads need so many registers that fewer of them run, and a step of LlamaGen's, a token an image,
# has hardly more programs than a GPU has multiprocessors.
_HELD = 8192
_WARPS = 16
# Log-probabilities of which it looks at once for those that count: four for each thread.
_SCANNED = 4 * 32 * _WARPS
# Below every logit that counts, and still a number.
_LOWEST = -1e30


def solve(
    eps_NC: jax.Array,
    log_p_NV: jax.Array,
    codes_VC: jax.Array,
    grid: np.ndarray,
    weights: np.ndarray,
    interpret: bool = False,
) -> jax.Array:
    """Ids [N] int32 of tokens; -1 where a log-probability is not a number.

    Args:
      eps_NC: noise, float32.
      log_p_NV: log-probabilities, float32; -inf for codes that are ruled out.
      codes_VC: as `normalise_codes` gives them, float32.
      grid: values of r, as `Solver.grid` gives them.
      weights: of the steps, as `Solver.weights` gives them.
      interpret: compute what the kernel would, slowly and on any device.
    """
    tokens, vocab = log_p_NV.shape
    width = pl.next_power_of_2(codes_VC.shape[1])
    padding = ((0, 0), (0, width - codes_VC.shape[1]))  # axes in which nothing happens
    block, scanned = (min(n, pl.next_power_of_2(vocab)) for n in (_HELD // width, _SCANNED))
    room = vocab + max(block, scanned)
    ids, _, _ = pl.pallas_call(
        functools.partial(_kernel, block=block, scanned=scanned, barrier=not interpret),
        grid=(tokens,),
        in_specs=[
            _row(width), _row(vocab), _whole(vocab, width), _whole(len(grid)),
            _whole(*weights.shape),
        ],
        out_specs=[pl.BlockSpec((None,), lambda n: (n,)), _row(room), _row(room)],
        # Beside the ids the codes that are left, and their log-probabilities.
        out_shape=[
            jax.ShapeDtypeStruct((tokens,), jnp.int32),
            jax.ShapeDtypeStruct((tokens, room), jnp.int32),
            jax.ShapeDtypeStruct((tokens, room), jnp.float32),
        ],
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
    )(
        jnp.pad(eps_NC, padding), log_p_NV, jnp.pad(codes_VC, padding),
        jnp.asarray(grid, jnp.float32), jnp.asarray(weights, jnp.float32),
    )
    return ids


def _row(size: int) -> pl.BlockSpec:
    """A program's row of an array [tokens, size]."""
    return pl.BlockSpec((None, size), lambda n: (n, 0))


def _whole(*shape: int) -> pl.BlockSpec:
    """An array that all programs read."""
    return pl.BlockSpec(shape, lambda n: (0,) * len(shape))


class _Token(NamedTuple):
    """The codes that a token may become.

    Attributes:
      codes: reference to the codebook.
      ids: to the ids of those that are left, rising.
      log_p: to their log-probabilities.
      count: how many are left.
      block: how many are taken at once.
    """

    codes: Any
    ids: Any
    log_p: Any
    count: jax.Array
    block: int

    def over_blocks(self, body: Callable, first: Any) -> Any:
        """Fold body(carry, ids [block], log-probabilities [block], codes [block, C])."""

        def one(j: jax.Array, carry: Any) -> Any:
            at = j * self.block + jnp.arange(self.block)
            inside = at < self.count
            ids = plgpu.load(self.ids.at[at], mask=inside, other=0)
            log_p = plgpu.load(self.log_p.at[at], mask=inside, other=-jnp.inf)
            axes = jnp.arange(self.codes.shape[1])
            return body(carry, ids, log_p, plgpu.load(self.codes.at[ids[:, None], axes[None]]))

        return jax.lax.fori_loop(0, pl.cdiv(self.count, self.block), one, first)

    def mean(self, y_C: jax.Array, r: jax.Array, of: Callable) -> tuple[jax.Array, ...]:
        """Means over the posterior given y at r of what `of` makes of codes and products with y.

        Every lane has a softmax of its own codes on the way; they are joined at the end.

        Args:
          y_C: where the token is.
          r: when.
          of: codes [block, C] and products [block, 1] to arrays of such shapes.
        """
        lanes = jnp.zeros((self.block,))
        shapes = jax.eval_shape(of, jnp.zeros((self.block, len(y_C))), lanes[:, None])

        def body(carry: tuple, _: jax.Array, log_p: jax.Array, codes: jax.Array) -> tuple:
            top, total, sums = carry
            logits, inner = _logits(log_p, codes, y_C, r)
            new = jnp.maximum(top, logits)
            old, e = jnp.exp(top - new), jnp.exp(logits - new)
            values = of(codes, inner[:, None])
            sums = tuple(
                s * old[:, None] + e[:, None] * v for s, v in zip(sums, values, strict=True)
            )
            return new, total * old + e, sums

        nothing = tuple(jnp.zeros(shape.shape) for shape in shapes)
        top, total, sums = self.over_blocks(body, (lanes + _LOWEST, lanes, nothing))
        share = jnp.exp(top - jnp.max(top))
        total = jnp.sum(total * share)
        return tuple(jnp.sum(s * share[:, None], axis=0) / total for s in sums)

    def likeliest(self, y_C: jax.Array, r: jax.Array) -> jax.Array:
        """The id of largest posterior given y at r, the first of equal ones."""

        def body(carry: tuple, ids: jax.Array, log_p: jax.Array, codes: jax.Array) -> tuple:
            best, of_best = carry
            logits, _ = _logits(log_p, codes, y_C, r)
            better = logits > best
            return jnp.where(better, logits, best), jnp.where(better, ids, of_best)

        first = jnp.full((self.block,), -jnp.inf), jnp.zeros((self.block,), jnp.int32)
        best, of_best = self.over_blocks(body, first)
        none = self.codes.shape[0]
        return jnp.min(jnp.where(best == jnp.max(best), of_best, none))


def _logits(
    log_p: jax.Array, codes: jax.Array, y_C: jax.Array, r: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`flow.posterior_logits` of a block, and the products of its codes with y."""
    inner = jnp.sum(codes * y_C[None], axis=1)
    return log_p + r * (inner - r * (jnp.sum(codes * codes, axis=1) / 2)), inner


def _keep(log_p: Any, ids: Any, kept_log_p: Any, vocab: int, block: int) -> jax.Array:
    """Write ids and log-probabilities of the codes above probability zero; returns how many.

    What is not a number stays, and makes its token so.
    """

    def one(j: jax.Array, count: jax.Array) -> jax.Array:
        at = j * block + jnp.arange(block)
        found = plgpu.load(log_p.at[at], mask=at < vocab, other=-jnp.inf)
        keep = found != -jnp.inf
        rank = jnp.cumsum(keep.astype(jnp.int32))
        # What is not kept has a place of its own, though it is not written.
        place = jnp.where(keep, count + rank - 1, vocab + jnp.arange(block))
        plgpu.store(ids.at[place], at, mask=keep)
        plgpu.store(kept_log_p.at[place], found, mask=keep)
        return count + jnp.sum(keep.astype(jnp.int32))

    return jax.lax.fori_loop(0, pl.cdiv(vocab, block), one, jnp.int32(0))


def _kernel(
    eps: Any, log_p: Any, codes: Any, grid: Any, weights: Any, id_: Any, kept: Any,
    kept_log_p: Any, *, block: int, scanned: int, barrier: bool,
) -> None:
    """The whole way of a token, by references to its rows and to what all programs read.

    Args:
      eps: its noise.
      log_p: its log-probabilities.
      codes: the codebook.
      grid: values of r.
      weights: of the steps.
      id_: the result.
      kept: room for ids.
      kept_log_p: room for log-probabilities.
      block: codes at once.
      scanned: log-probabilities at once.
      barrier: whether threads have to wait for what others of the program wrote.
    """
    count = _keep(log_p, kept, kept_log_p, codes.shape[0], scanned)
    if barrier:
        plgpu.debug_barrier()
    token, (steps, columns) = _Token(codes, kept, kept_log_p, count, block), weights.shape
    eps_C = eps[...]
    code, turned, inner = token.mean(
        eps_C, jnp.float32(0), lambda codes, inner: (codes, codes * inner, inner)
    )
    curvature = turned - inner * code  # the derivative of the slope along the path at r = 0

    def step(i: jax.Array, carry: tuple) -> tuple:
        y, slopes = carry
        slope, = token.mean(y, grid[i], lambda codes, _: (codes,))
        slopes = (slope, *slopes[:-1])
        factors = (weights[i, j] for j in range(columns))
        terms = (f * x for f, x in zip(factors, (*slopes, curvature), strict=True))
        return sum(terms, y), slopes

    slopes = (jnp.zeros_like(eps_C),) * (columns - 1)
    y, _ = jax.lax.fori_loop(0, steps, step, (eps_C, slopes))
    found = token.likeliest(y, grid[steps])
    id_[...] = jnp.where(jnp.sum(y * 0) == 0, found, -1)

"""Inspection of the flow map: paths of single tokens, entropies, margins, interpolation.

    out = pipe(labels=[3], method="teacher_flow", seed=5, log_probs=True)
    inspection.entropies(out.log_probs)                           # [N, L]
    inspection.margins(pipe, out.log_probs, pipe.noise(1, seed=5))    # [N, L]
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from scipy.special import entr

from ddjax.method import flow
from ddjax.method.flow import Paths
from ddjax.pipeline.pipeline import Pipeline
from ddjax.pipeline.sampler import slices

# Tokens at once: each takes V numbers, on its path K times as many.
TOKENS, PATHS = 4096, 64

# Where on a path its margin is read. On digits it tells best there which tokens stay when their
# noise is moved a little.
DECIDES = 0.8


def entropies(log_probs: np.ndarray) -> np.ndarray:
    """Entropies [...] in nats of distributions [..., V]."""
    return entr(np.exp(np.asarray(log_probs, np.float32))).sum(axis=-1)


def interpolation(start: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """Noise [count, ...] from one draw to another, on the arc cos(a) start + sin(a) end.

    Of independent draws every point of it is standard normal noise too.
    """
    angle = (np.linspace(0, np.pi / 2, count)).reshape(-1, *(1,) * np.ndim(start))
    return (np.cos(angle) * start[None] + np.sin(angle) * end[None]).astype(np.float32)


def map_tokens(pipe: Pipeline, log_probs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The codes [N] that the flow takes noise [N, C] to, under log-probabilities [V] or [N, V]."""
    return np.concatenate(list(_by_portions(_map, pipe, log_probs, noise, TOKENS)))


def paths(pipe: Pipeline, log_probs: np.ndarray, noise: np.ndarray) -> Paths:
    """The paths of tokens from noise [N, C] to codes, under log-probabilities [V] or [N, V].

    See `ddjax.method.flow.Paths` for their units.
    """
    found = list(_by_portions(_paths, pipe, log_probs, noise, PATHS))
    joined = [np.concatenate(parts, axis=1) for parts in list(zip(*found, strict=True))[1:]]
    return Paths(found[0].t_K, *joined)


def margins(pipe: Pipeline, log_probs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """How far ahead the code that a token reaches is of any other, on its path at t = `DECIDES`.

    Below zero another code was still the more likely one there, so that noise nearby may well be
    taken to that one.

    Args:
      pipe: whose codebook and solver make the paths.
      log_probs: [N, L, V] of the tokens.
      noise: [N, L, C].

    Returns:
      [N, L], in nats: log-probability of the code reached, minus the largest of all others.
    """
    tokens = [x.reshape(-1, x.shape[-1]) for x in (log_probs, noise)]
    found = [_lead(one) for one in _by_portions(_paths, pipe, *tokens, PATHS)]
    return np.concatenate(found).reshape(noise.shape[:-1])


def _lead(found: Paths) -> np.ndarray:
    """The margins [N] of paths."""
    at_NV = found.log_posterior_KNV[np.abs(found.t_K - DECIDES).argmin()].copy()
    reached = found.log_posterior_KNV[-1].argmax(axis=-1)[:, None]
    own = np.take_along_axis(at_NV, reached, axis=1)
    np.put_along_axis(at_NV, reached, -np.inf, axis=1)
    return own[:, 0] - at_NV.max(axis=1)


def _by_portions(
    function: Callable, pipe: Pipeline, log_probs: np.ndarray, noise: np.ndarray, portion: int
) -> Iterator[Any]:
    """What a function of noise, log-probabilities, codes and solver gives, on the host."""
    log_probs = np.broadcast_to(log_probs, (len(noise), np.shape(log_probs)[-1]))
    codes_VC, solver = pipe.codebook, pipe.settings.solver
    with jax.set_mesh(pipe.mesh):
        for rows in slices(len(noise), portion):
            yield jax.tree.map(
                np.asarray, function(noise[rows], log_probs[rows], codes_VC, solver)
            )


_map = jax.jit(flow.noise_to_ids, static_argnums=3)
_paths = jax.jit(flow.noise_to_paths, static_argnums=3)

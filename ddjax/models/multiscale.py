"""Multi-scale residual quantiser of VAR: a feature map as a sum of code vectors at several scales.

A scale's code vectors are enlarged to the whole map and go through one of four shared residual
convolutions phi; the remainder is quantised at the next, finer scale. Follows
github.com/FoundationVision/VAR (arXiv 2404.02905, algorithms 1 and 2), so that its weights convert.
Always float32: rounding would change ids.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.method import codes
from ddjax.method.groups import Groups
from ddjax.models.resize import HIGHEST, area_matrix, bicubic_matrix, resize
from ddjax.models.straight_through import straight_through

# Published for images of 256 pixels: 680 tokens.
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
PHIS = 4


def check_scales(scales: tuple[int, ...]) -> None:
    """Raise ValueError unless the scales rise from one token."""
    if scales[:1] != (1,) or any(a >= b for a, b in itertools.pairwise(scales)):
        raise ValueError(f"scales {scales} must rise from 1")


def phi_of_scale(count: int) -> tuple[int, ...]:
    """Which phi each of `count` scales goes through: the one whose tick is nearest."""
    if count == 10:
        # Two of the published scales lie as near to one tick as to another, up to rounding.
        return (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    ticks = np.linspace(1 / (3 * PHIS), 1 - 1 / (3 * PHIS), PHIS)
    place = np.arange(count) / max(count - 1, 1)
    return tuple(int(i) for i in np.abs(ticks[None] - place[:, None]).argmin(axis=1))


class Quantiser(nnx.Module):
    """Codebook and phi; feature maps [B, H, W, C] have the last scale's size.

    A model that holds one and does not train it takes `jax.lax.stop_gradient` of it.

    Args:
      scales: tokens a side of each scale.
      vocab_size: V.
      code_dim: C.
      rngs: of the initial weights.
    """

    def __init__(
        self, scales: tuple[int, ...], vocab_size: int, code_dim: int, rngs: nnx.Rngs
    ) -> None:
        self.scales = scales
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, code_dim)))
        # Not named kernels, which decay: where they have no gradient they have to stay as they are.
        init = nnx.initializers.lecun_normal(batch_axis=0)
        self.phi_weights = nnx.Param(init(rngs.params(), (PHIS, 3, 3, code_dim, code_dim)))
        self.phi_biases = nnx.Param(jnp.zeros((PHIS, code_dim)))

    @property
    def codebook(self) -> jax.Array:
        """[V, C] float32, not normalised."""
        return self.embedding[...]

    def spread(self, x_BSC: jax.Array, scale: int) -> jax.Array:
        """What a scale adds to the map [B, H, W, C]: 0.5 h + 0.5 phi(h), h its enlarged vectors."""
        size, grid = self.scales[scale], self.scales[-1]
        x = x_BSC.astype(jnp.float32).reshape(-1, size, size, x_BSC.shape[-1])
        h = resize(x, bicubic_matrix(size, grid))
        phi = phi_of_scale(len(self.scales))[scale]
        convolved = jax.lax.conv_general_dilated(
            h, self.phi_weights[phi], (1, 1), "SAME", precision=HIGHEST,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return 0.5 * h + 0.5 * (convolved + jnp.broadcast_to(self.phi_biases[phi], h.shape))

    def shrink(self, f_BHWC: jax.Array, scale: int) -> jax.Array:
        """Means [B, S, C] of a map over the cells of a scale."""
        small = resize(f_BHWC, area_matrix(self.scales[-1], self.scales[scale]))
        return small.reshape(small.shape[0], -1, small.shape[-1])

    def maps(self, x_BPC: jax.Array) -> list[jax.Array]:
        """Maps [B, H, W, C]: zeros before the first scale, then after each of the scales in x."""
        batch, tokens, channels = x_BPC.shape
        starts = Groups(tuple(size**2 for size in self.scales)).starts
        nothing = jnp.zeros((batch, self.scales[-1], self.scales[-1], channels))
        parts = (
            self.spread(x_BPC[:, begin:end], scale)
            for scale, (begin, end) in enumerate(itertools.pairwise(starts)) if end <= tokens
        )
        return list(itertools.accumulate(parts, initial=nothing))

    def inputs(self, maps: list[jax.Array]) -> jax.Array:
        """A teacher's inputs at the second scale and on, [B, tokens, C], from `maps`."""
        none = maps[0].reshape(maps[0].shape[0], -1, maps[0].shape[-1])[:, :0]
        read = [self.shrink(f, i) for i, f in enumerate(maps) if i > 0]
        return jnp.concatenate([none, *read], axis=1)

    def quantise(self, f_BHWC: jax.Array) -> "Quantised":
        """The codes of a map: scale by scale, the nearest to what coarser scales leave of it.

        The losses are means over the scales of how far their sum so far is from the map, squared
        (the code published with arXiv 2404.02905).
        """
        stop = jax.lax.stop_gradient
        rest, total = stop(f_BHWC), jnp.zeros(f_BHWC.shape)
        vectors, ids, codebook, commitment = [], [], [], []
        for scale in range(len(self.scales)):
            vectors.append(self.shrink(rest, scale))
            ids.append(codes.nearest_ids(vectors[-1], self.codebook))
            added = self.spread(self.codebook[ids[-1]], scale)
            rest, total = rest - stop(added), total + added
            codebook.append(jnp.mean((total - stop(f_BHWC)) ** 2))
            commitment.append(jnp.mean((stop(total) - f_BHWC) ** 2))
        return Quantised(
            straight_through(f_BHWC, total), jnp.concatenate(vectors, axis=1),
            jnp.concatenate(ids, axis=1), sum(codebook) / len(ids), sum(commitment) / len(ids),
        )


class Quantised(NamedTuple):
    """A feature map in codes; see `ddjax.method.protocols.Autoencoded`."""

    map_BHWC: jax.Array
    features_BLC: jax.Array
    ids_BL: jax.Array
    codebook: jax.Array
    commitment: jax.Array

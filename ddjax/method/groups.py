"""Groups: how a sequence of tokens is cut into what the teacher predicts at once."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Groups:
    """A sequence of `length` tokens in `count` consecutive groups.

    LlamaGen: 256 groups of one token. VAR: ten scales of 1, 4, 9, ... tokens.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"groups need at least one token each, got sizes {self.sizes}")

    @property
    def count(self) -> int:
        """G, the number of groups."""
        return len(self.sizes)

    @property
    def starts(self) -> np.ndarray:
        """[G + 1]: number of tokens before group g; the last entry is the length."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int32)

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return sum(self.sizes)

    @property
    def of_token(self) -> np.ndarray:
        """[L]: the group of each token."""
        return np.repeat(np.arange(self.count, dtype=np.int32), self.sizes)

    def before(self, tokens: int) -> int:
        """How many groups the first `tokens` tokens are.

        Raises:
          ValueError: they are no whole groups.
        """
        count = int(np.searchsorted(self.starts, tokens))
        if count > self.count or self.starts[count] != tokens:
            raise ValueError(f"{tokens} tokens are no whole groups; those end at {self.starts[1:]}")
        return count

    def is_data(self, k: int | jax.Array) -> jax.Array:
        """Which tokens are data when the first k groups are: [L] for a scalar k, [B, L] for [B]."""
        k = jnp.asarray(k)[..., None]
        return jnp.broadcast_to(self.of_token, (*k.shape[:-1], self.length)) < k

    def runs(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Cut groups first..stop-1 into maximal runs (start, stop) of equal size.

        A run is what one `lax.scan` can go through: raster tokens are one run, scales one each.
        """
        cuts = [g for g in range(first + 1, stop) if self.sizes[g] != self.sizes[g - 1]]
        edges = [first, *cuts, stop]
        return [(a, b) for a, b in itertools.pairwise(edges) if b > a]

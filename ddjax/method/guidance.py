"""Teacher sampling distribution: classifier-free guidance (CFG), temperature, top-k, top-p.

Pair generation, teacher sampling, teacher-involved sampling and refinement see a teacher only
through `Guided`, so that all of them use the same distribution.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.method import truncation
from ddjax.method.groups import Groups
from ddjax.method.protocols import Teacher


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Sampling hyperparameters of the teacher.

    Attributes:
      scale: classifier-free guidance. schedule "constant" (LlamaGen): 1 and less is none, above
        it logits = null + scale * (cond - null). "linear" (VAR): 0 is none, group g of G has
        logits = cond + scale * g / (G - 1) * (cond - null).
      schedule: "constant" or "linear".
      interval: with n >= 0 groups after n + 1 are not guided (LlamaGen's cfg_interval); -1 guides
        all. Groups count from the start of the image; in teacher-involved sampling the original
        counts from the first that the teacher draws.
      temperature: divides the guided logits.
      top_k: keep the k largest, and all that tie with the k-th; 0 keeps all.
      top_p: of what top_k left, keep the smallest set of largest with at least this probability.
    """

    scale: float = 1.0
    schedule: str = "constant"
    interval: int = -1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def is_guided(self) -> bool:
        """Whether the unconditional half is needed at all."""
        return self.scale > (1.0 if self.schedule == "constant" else 0.0)

    def strength(self, groups: Groups) -> np.ndarray:
        """[G] float32: w in logits = cond + w * (cond - null)."""
        g = np.arange(groups.count)
        if self.schedule == "linear":
            return (self.scale * g / max(groups.count - 1, 1)).astype(np.float32)
        on = (self.interval < 0) | (g <= self.interval + 1)
        return np.where(on, self.scale - 1.0, 0.0).astype(np.float32)


def truncate(logits: jax.Array, guidance: Guidance) -> jax.Array:
    """Log-probabilities [..., V], float32, after temperature, top-k, then top-p; -inf if cut.

    Logits that are NaN or +inf make their whole row NaN.
    """
    logits = logits.astype(jnp.float32) / max(guidance.temperature, 1e-5)
    if 0 < guidance.top_k < logits.shape[-1]:
        logits = truncation.top_k(logits, guidance.top_k)
    if guidance.top_p < 1:
        logits = truncation.top_p(logits, guidance.top_p)
    return jax.nn.log_softmax(logits, axis=-1)


class Guided:
    """A teacher as it is sampled from: its methods give log-probabilities [B, tokens, V].

    The methods are those of `ddjax.method.protocols.Teacher`; here the batch is doubled inside
    where guidance needs the unconditional half.
    """

    def __init__(self, teacher: Teacher, guidance: Guidance) -> None:
        self.teacher = teacher
        self.guidance = guidance
        self.groups = teacher.groups
        self._strength = jnp.asarray(guidance.strength(self.groups))

    def log_probs(self, ids_BL: jax.Array, condition: Any) -> jax.Array:
        """Teacher forcing: [B, L, V], each token given the groups before its own."""
        both, ids = self._double(condition), self._double_ids(ids_BL)
        return self._combine(self.teacher.logits(ids, both), self._strength[self.groups.of_token])

    def prefill(self, condition: Any, ids_BP: jax.Array) -> tuple[jax.Array, Any]:
        """Read the condition and the ids of the first n groups.

        Returns:
          log-probabilities [B, size of group n, V] of group n, and the teacher's cache.

        Raises:
          ValueError: the ids are no whole groups.
        """
        n = self.groups.before(ids_BP.shape[1])
        logits, cache = self.teacher.prefill(self._double(condition), self._double_ids(ids_BP))
        return self._combine(logits, self._strength[n]), cache

    def step(self, ids_BS: jax.Array, group: int | jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        """Append the ids of a group.

        Args:
          ids_BS: of the group whose log-probabilities came last.
          group: its index; an array within a scan.
          cache: of the step before.

        Returns:
          log-probabilities [B, size of group + 1, V] of the next group, and the cache.
        """
        logits, cache = self.teacher.step(self._double_ids(ids_BS), group, cache)
        return self._combine(logits, self._strength[group + 1]), cache

    def _double(self, condition: Any) -> Any:
        if not self.guidance.is_guided:
            return condition
        null = self.teacher.null(condition)
        return jax.tree.map(lambda c, n: jnp.concatenate([c, n]), condition, null)

    def _double_ids(self, ids: jax.Array) -> jax.Array:
        return jnp.concatenate([ids, ids]) if self.guidance.is_guided else ids

    def _combine(self, logits: jax.Array, strength: jax.Array) -> jax.Array:
        logits = logits.astype(jnp.float32)
        if self.guidance.is_guided:
            cond, null = jnp.split(logits, 2)
            logits = cond + strength.reshape(1, -1, 1) * (cond - null)
        return truncate(logits, self.guidance)

"""Sampling with the student, against a loop over tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method.groups import Groups
from ddjax.method.sampling import Drawn, student_sample

GROUPS, VOCAB, WIDTH = Groups((1, 2, 2, 1)), 7, 3


@dataclasses.dataclass
class Mixing:
    """A student that mixes all tokens, and does otherwise at every k."""

    rng: np.random.Generator
    groups = GROUPS

    def __post_init__(self):
        length, normal = GROUPS.length, self.rng.standard_normal
        self.mix_KLL = normal((GROUPS.count, length, length)).astype(np.float32)
        self.head_CV = normal((WIDTH, VOCAB)).astype(np.float32)
        self.out_CC = normal((WIDTH, WIDTH)).astype(np.float32)

    def __call__(self, x_BLC, k, condition):
        h = jnp.tanh(jnp.einsum("lm,bmc->blc", self.mix_KLL[k], x_BLC) + condition[:, None, None])
        return h @ self.head_CV, h @ self.out_CC


def by_hand(student, codes, eps, condition, steps, split, start):
    group = GROUPS.of_token
    ids, x = (np.array(start.ids_BL), np.array(start.x_BLC)) if start else (None, np.array(eps))
    ids = np.zeros(eps.shape[:2], int) if ids is None else ids
    for k in steps:
        seen = np.array([[x[b, t] if group[t] < k else eps[b, t] for t in range(len(group))]
                         for b in range(len(eps))])
        logits, vectors = map(np.asarray, student(seen, k, condition))
        for b, t in np.ndindex(ids.shape):
            if group[t] < k:
                continue
            ids[b, t] = logits[b, t].argmax()
            x[b, t] = codes[ids[b, t]] if group[t] < split else vectors[b, t]
    for b, t in np.ndindex(ids.shape):
        if group[t] >= max(split, steps[0]):
            ids[b, t] = np.square(codes - x[b, t]).sum(axis=1).argmin()
    return ids, x, logits


@pytest.mark.parametrize("split", [4, 3, 1, 0])
@pytest.mark.parametrize(("steps", "starts"), [
    ((0,), False), ((0, 2), False), ((0, 1, 3), False), ((2,), True), ((1, 3), True),
])
def test_the_student_keeps_what_is_data_and_predicts_the_rest(steps, starts, split):
    rng = np.random.default_rng(0)
    student, condition = Mixing(rng), np.array([0.0, 0.7, -0.4], np.float32)
    codes = rng.standard_normal((VOCAB, WIDTH)).astype(np.float32)
    codes[-1] = codes[2]  # an id that is data stays, though another one has the same code
    eps = rng.standard_normal((3, GROUPS.length, WIDTH)).astype(np.float32)
    ids = rng.integers(VOCAB, size=(3, GROUPS.length))
    start = Drawn(jnp.asarray(ids), jnp.asarray(codes[ids])) if starts else None
    wanted = by_hand(student, codes, eps, condition, steps, split, start)
    with jax.numpy_rank_promotion("allow"):
        drawn = student_sample(
            student, jnp.asarray(codes), jnp.asarray(eps), condition, steps=steps, split=split,
            start=start,
        )
    np.testing.assert_array_equal(drawn.ids_BL, wanted[0])
    np.testing.assert_allclose(drawn.x_BLC, wanted[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(drawn.logits_BLV, wanted[2], rtol=1e-5, atol=1e-5)

"""A tiny VAR, its tokenizer and its distilled student, as the original PyTorch code saved them.

Arrays beside them are that code's outputs, float32 on a CPU; images there are [B, C, H, W].
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np

from tests import golden

arrays = functools.cache(golden.arrays)


def converted(name, model, *others):
    with tempfile.TemporaryDirectory() as folder:
        return golden.converted(Path(folder), name, model, others, scales=(1, 2, 3, 4))


@functools.cache
def tokenizer():
    return converted("var_vqvae", "var_tokenizer")


@functools.cache
def teacher():
    return converted("var", "var", "var_vqvae")


@functools.cache
def student():
    return converted("dd_var", "var_student")


@dataclasses.dataclass
class Compiled:
    """A teacher or student whose methods are compiled once for all tests."""

    model: object

    def __post_init__(self):
        self.groups, self.null = self.model.groups, getattr(self.model, "null", None)

    def __call__(self, x, k, condition):
        k = np.broadcast_to(np.asarray(k, np.int32), len(x))
        return _call(self.model, x, k, condition)

    def logits(self, ids, condition):
        return _logits(self.model, ids, condition)

    def prefill(self, condition, ids):
        return _prefill(self.model, condition, ids)

    def step(self, ids, group, state):
        return _step(self.model, ids, group, state)


_call = jax.jit(lambda model, x, k, condition: model(x, k, condition))
_logits = jax.jit(lambda model, ids, condition: model.logits(ids, condition))
_prefill = jax.jit(lambda model, condition, ids: model.prefill(condition, ids))
_step = jax.jit(lambda model, ids, group, state: model.step(ids, group, state), static_argnums=2)
_decode = jax.jit(lambda model, x: model.decode(x))


def decode(x):
    """Images in [-1, 1], three at a time so that one program does for all tests."""
    x = np.asarray(x)
    images = _decode(tokenizer(), np.pad(x, ((0, 3 - len(x)), (0, 0), (0, 0))))
    return images[: len(x)]


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)

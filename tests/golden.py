"""Tiny checkpoints in the published layout, and what the original PyTorch code computed from them.

`NAME.pt` holds random weights, `NAME.npz` inputs and outputs, float32 on a CPU. Their own noise is
3e-6 in logits, 2e-5 in guided logits, 1e-5 in images; the tolerances here tell an epsilon of
1e-5 from one of 1e-6.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from conversion import torch_to_flax
from ddjax import weights

FOLDER = Path(__file__).parent / "golden"
LOGITS, GUIDED, IMAGES = 2e-5, 1e-4, 1e-4


class Arrays(dict):
    """Arrays by name; `unread` are those that no test has asked for yet."""

    def __init__(self, file):
        super().__init__(np.load(file))
        self.unread = set(self)

    def __getitem__(self, name):
        self.unread.discard(name)
        return super().__getitem__(name)


@functools.cache
def arrays(name):
    return Arrays(FOLDER / f"{name}.npz")


def assert_all_read(request, *names):
    """For the last test of a file; it can tell nothing where some of the others do not run."""
    ran = {item.originalname for item in request.session.items if item.path == request.path}
    if any(name.startswith("test_") and name not in ran for name in vars(request.module)):
        pytest.skip("not all tests of this file run")
    unread = {name: arrays(name).unread for name in names}
    assert not any(unread.values()), unread


def converted(tmp, name, model, others=(), **given):
    """The model of a golden checkpoint and others, by the converter and back from its folder."""
    files = [FOLDER / f"{file}.pt" for file in (name, *others)]
    torch_to_flax.convert(model, files, tmp / name, None, given)
    return weights.load(tmp / name)


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
        """A group given as an int is a program of its own, since sizes may differ."""
        step = _step_of_group if isinstance(group, int) else _step
        return step(self.model, ids, group, state)


def _do_step(model, ids, group, state):
    return model.step(ids, group, state)


_call = jax.jit(lambda model, x, k, condition: model(x, k, condition))
_logits = jax.jit(lambda model, ids, condition: model.logits(ids, condition))
_prefill = jax.jit(lambda model, condition, ids: model.prefill(condition, ids))
_step, _step_of_group = jax.jit(_do_step), jax.jit(_do_step, static_argnums=2)
_decode = jax.jit(lambda model, x: model.decode(x))


def decode(tokenizer, x):
    """Images in [-1, 1], three at a time so that one program does for all tests."""
    x = np.asarray(x)
    return _decode(tokenizer, np.pad(x, ((0, 3 - len(x)), (0, 0), (0, 0))))[: len(x)]


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)


def assert_close(found, wanted, tolerance):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=tolerance)

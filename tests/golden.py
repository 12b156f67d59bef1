"""What the original PyTorch code computed from the tiny checkpoints; see `golden/README.md`.

Also what tests of all models need to compare with it.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conversion import torch_to_flax
from ddjax.method.guidance import Guided
from ddjax.storage import model_folder
from tests.golden_checkpoints import checkpoint

FOLDER = Path(__file__).parent / "golden"
# Absolute tolerances; `README.md` in the folder says what they rest on.
LOGITS = 2e-5  # and all inside the nets, vectors too
GUIDED = 1e-4
IMAGES = 1e-4
TABLES = 1e-6  # and probabilities
RESIZED = 2e-6
MAPS = 5e-6
# A temperature at which the best token is drawn: the logits of the next best are lower by 9e-4 at
# least. Top k would compile for longer.
COLDEST = 1e-5


class Arrays(dict):
    """Arrays by name; `unread` are those that no test has asked for yet."""

    def __init__(self, file):
        stored = dict(np.load(file))
        same_as = stored.pop("same_as", ())  # arrays that are equal are stored once
        super().__init__(stored | {name: stored[other] for name, other in same_as})
        self.unread = set(self)

    def __getitem__(self, name):
        self.unread.discard(name)
        return super().__getitem__(name)


@functools.cache
def arrays(name):
    return Arrays(FOLDER / f"{name}.npz")


@functools.cache
def about(name):
    """Sizes, and with which settings the original computed which arrays."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def assert_all_read(request, *names):
    """For the last test of a file; it can tell nothing where some of the others do not run."""
    ran = {item.originalname for item in request.session.items if item.path == request.path}
    if any(name.startswith("test_") and name not in ran for name in vars(request.module)):
        pytest.skip("not all tests of this file run")
    unread = {name: arrays(name).unread for name in names}
    assert not any(unread.values()), unread


def converted(tmp, name, model, others=(), **given):
    """The model of a golden checkpoint and others, by the converter and back from its folder."""
    files = [checkpoint(file) for file in (name, *others)]
    torch_to_flax.convert(model, files, tmp / name, None, given)
    found = model_folder.load(tmp / name)
    sizes = json.loads(json.dumps(vars(found.config)))  # with lists for tuples
    assert about(name)["sizes"].items() <= sizes.items()
    # On no mesh: else what a model made and what it did not would need programs of their own.
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found)


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


class Recorded:
    """A teacher whose logits are given."""

    def __init__(self, groups, logits):
        self.groups, self._logits = groups, logits

    def null(self, condition):
        return condition

    def logits(self, ids, condition):
        return self._logits


def guided(teacher, raw, guidance):
    """Log-probabilities [B, L, V] from the logits of both halves of the doubled batch."""
    ids, labels = jnp.zeros(raw.shape[:2], jnp.int32), jnp.zeros(len(raw) // 2, jnp.int32)
    return Guided(Recorded(teacher.groups, raw), guidance).log_probs(ids, labels)


def log_softmax(logits):
    return jax.nn.log_softmax(logits.astype(np.float32), axis=-1)


def doubled(teacher, condition):
    return jax.tree.map(lambda *x: jnp.concatenate(x), condition, teacher.null(condition))


def final(groups, logits, vectors, k, x_k, ids):
    """What the original makes of a student's pass: data stay, their logits leave one choice."""
    is_data = np.broadcast_to(groups.is_data(k), ids.shape)[..., None]
    certain = np.where(np.arange(logits.shape[-1]) == np.asarray(ids)[..., None], 0, -np.inf)
    return np.where(is_data, certain, logits), np.where(is_data, x_k, vectors)


def last(x):
    """Channels last."""
    return np.moveaxis(x, 1, -1)


def assert_close(found, wanted, tolerance):
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=tolerance)


def assert_images(found, wanted):
    """Each third row and column is stored of images of 64 x 64."""
    assert_close(np.asarray(found)[:, ::3, ::3], last(wanted), IMAGES)

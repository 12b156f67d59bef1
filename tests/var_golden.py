"""A tiny VAR, its tokenizer and its distilled student; see `tests.golden`."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.models.layers import adaptive_norm
from tests import golden

# Each with the files that its own needs beside it.
KINDS = {
    "var_vqvae": ("var_tokenizer", ()),
    "var": ("var", ("var_vqvae",)),
    "dd_var": ("var_student", ()),
}
SCALES = tuple(golden.about("var")["sizes"]["scales"])
GROUPS = Groups(tuple(size**2 for size in SCALES))
LINEAR = functools.partial(Guidance, schedule="linear")


@functools.cache
def model(name):
    kind, others = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        return golden.converted(Path(folder), name, kind, others, scales=SCALES)


@functools.cache
def compiled(name):
    return golden.Compiled(model(name))


def tokenizer():
    return model("var_vqvae")


def decode(x):
    return golden.decode(tokenizer(), x)


def case(name):
    a = golden.arrays(name)
    return a, jnp.asarray(a["labels"], jnp.int32)


def per_scale(a, name, scales=range(4)):
    return np.concatenate([a[name.format(s)] for s in scales], axis=1)


def stepped(teacher, labels, ids, first=0):
    """What a teacher, guided or not, gives for the scales from `first` on, with its cache."""
    starts = GROUPS.starts
    found, state = teacher.prefill(labels, ids[:, : starts[first]])
    pieces = [found]
    for group in range(first, GROUPS.count):
        if starts[group + 1] < ids.shape[1]:
            found, state = teacher.step(ids[:, starts[group] : starts[group + 1]], group, state)
            pieces.append(found)
    return jnp.concatenate(pieces, axis=1)


def moved(run, x, changed):
    """[30, 30]: row p tells which outputs differ where position p was changed; `run` takes 3."""
    wanted = run(jnp.tile(x, (3,) + (1,) * (x.ndim - 1)))
    rows = [np.abs(run(changed[i : i + 3]) - wanted).max(axis=-1) for i in range(0, 30, 3)]
    return np.concatenate(rows) > 1e-5


def walk(trunk, h, condition, mask, between=None):
    """What goes into the blocks, what the first attention gives and what every block gives.

    `between` is what a student adds in each block.
    """
    found = {"embed": h}
    for i in range(trunk.blocks.attention.log_scale.shape[0]):
        block = jax.tree.map(lambda x, i=i: x[i], trunk.blocks)
        if i == 0:
            _, _, scale, _, shift, _ = block.modulation(condition)
            normed = adaptive_norm(h, scale, shift)
            found["block0_attn_out"] = block.attention(normed, mask, None)[0]
        h, _ = block(h, block.modulation(condition), mask, between and between[i], None)
        found[f"block{i}"] = h
    return found, h

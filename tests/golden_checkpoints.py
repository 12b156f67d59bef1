"""Tiny checkpoints in the published layouts, made in every session since they are random.

`golden/checkpoints.json` lists them, and what the original code computed belongs to exactly these
weights. By file: a checksum of the weights; the copies of the weights as PLACE: SEED, where PLACE
is the keys of the dictionaries around them ("trainer/ema_parameters"; "" for none); the tensors as
NAME: [type, shape] and, for those that are not random, [type, shape, formula, scales].
"""

import functools
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import torch

LISTING = Path(__file__).parent / "golden" / "checkpoints.json"

# Mean and deviation of a tensor by the first pattern that is in its name; a pair (None, factor)
# stands for factor / sqrt(inputs of an output). The branches of a residual network, what it
# starts from and what it adds, are five times smaller than usual: what its norms read is then so
# small that epsilons of 1e-6 and 1e-5 can be told apart. Classes, codes and attention are as wide
# as gives varied tokens, the last decoder layer as gives images beyond [-1, 1].
RULES = (
    (r"norm\w*\.weight$", 1.0, 0.1),
    (r"scale_mul", 2.0, 0.3),
    (r"ada_lin.*bias$|scale_shift_table$", 0.0, 0.3),
    (r"(conv_in|conv2|proj|proj_out|wo|fc2|w2|layerwise_n_d_embed\.\d)\.bias$", 0.0, 0.02),
    (r"bias$", 0.0, 0.1),
    (r"quantize\.embedding|uncond_embedding$", 0.0, 0.5),
    (r"embedding_table|class_emb", 0.0, 0.5),
    (r"tok_embeddings|^n_d_embed|lvl_embed|^pos_", 0.0, 0.15),
    (r"(conv_in|conv2|proj|proj_out|wo|w2|ffn\.fc2|word_embed)\.weight$", 0.0, (None, 0.2)),
    (r"", 0.0, (None, 1.0)),
)


def levels(scales):
    """The scale of every token: 0, 1, 1, 1, 1, 2, ... for scales of 1, 2, ... tokens a side."""
    return np.repeat(np.arange(len(scales)), np.square(scales))


def bias(allowed):
    """What is added to the scores of attention: 0 where it is allowed, else -inf."""
    return np.where(allowed, 0.0, -np.inf)


FORMULAS = {
    "zeros": lambda scales: 0,
    "levels": levels,
    "earlier_or_same_scale": lambda s: bias(levels(s)[:, None] >= levels(s)),
    "earlier_scale_or_self": lambda s: bias(
        (levels(s)[:, None] > levels(s)) | np.eye(len(levels(s)), dtype=bool)
    ),
}


def random(name, shape, seed):
    """Normal numbers by a counter, keyed by seed and name.

    They are rounded, so that no library differs; what they become is not exact in half precision,
    so that a rounding on the way through a conversion is seen.
    """
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)
    normal = np.round(normal * 4096) / 4096
    mean, deviation = next(rule[1:] for rule in RULES if re.search(rule[0], name))
    if isinstance(deviation, tuple):
        deviation = deviation[1] / np.sqrt(np.prod(shape[1:]))
    values = mean + deviation * normal
    if name.endswith("1.attn.scale_mul_1H11"):
        values.flat[-1] = 5.0  # above log(100), where it is cut
    return values


def tensor(name, seed, dtype, shape, formula=None, scales=()):
    """A tensor as the listing describes it."""
    values = FORMULAS[formula](scales) if formula else random(name, shape, seed)
    values = np.asarray(values, dtype)
    return torch.from_numpy(values.reshape(shape) if values.ndim else np.full(shape, values))


@functools.cache
def listing():
    return json.loads(LISTING.read_text())


def make(file):
    """The dictionaries of a checkpoint."""
    about, tree, checksum = listing()[file], {}, 0
    for place, seed in about["copies"].items():
        weights = {name: tensor(name, seed, *how) for name, how in about["tensors"].items()}
        for value in weights.values():
            checksum = zlib.crc32(value.numpy(), checksum)
        *outer, last = place.split("/")
        inner = tree
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = weights
    assert f"{checksum:08x}" == about["checksum"], f"{file} has checksum {checksum:08x}"
    return tree.get("", tree)


def checkpoint(name):
    """The file of a case, in the folder that all workers of a session share.

    Made by whichever worker asks first. Where two ask at once both make it, and the second puts
    the same in place of the same.
    """
    file = Path(os.environ["GOLDEN_CHECKPOINTS"]) / f"{name}.pt"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        torch.save(make(file.name), unfinished)
        unfinished.replace(file)
    return file

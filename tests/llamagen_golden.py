"""A tiny LlamaGen for classes, one for captions, tokenizer, student, as PyTorch code saved them.

Arrays beside them are that code's outputs, float32 on a CPU; images there are [B, C, H, W].
"""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.guidance import Guided
from ddjax.models import llamagen
from tests import golden

KINDS = {
    "llamagen_gpt_c2i": "llamagen",
    "llamagen_gpt_t2i": "llamagen",
    "llamagen_vq": "llamagen_tokenizer",
    "dd_llamagen": "llamagen_student",
}


@functools.cache
def model(name):
    with tempfile.TemporaryDirectory() as folder:
        return golden.converted(Path(folder), name, KINDS[name], grid=4)


@functools.cache
def compiled(name):
    return golden.Compiled(model(name))


def tokenizer():
    return model("llamagen_vq")


def decode(x):
    return golden.decode(tokenizer(), x)


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


def walk(trunk, h, valid):
    """What goes into the blocks, what the first attention gives and what every block gives."""
    length = h.shape[1]
    mask, rope = llamagen.causal_mask(valid, length, length), trunk.rope()[:length]
    found = {"embed": h}
    for i in range(trunk.transformer.layers):
        block = jax.tree.map(lambda x, i=i: x[i], trunk.transformer.blocks)
        if i == 0:
            normed = block.attention_norm(h)
            found["block0_attn_out"] = block.attention(normed, rope, mask, None, 0)[0]
        h, _ = block(h, rope, mask, None, 0)
        found[f"block{i}"] = h
    return found, h

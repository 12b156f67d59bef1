"""A tiny LlamaGen for classes, one for captions, tokenizer and student; see `tests.golden`."""

import functools
import tempfile
from pathlib import Path

import jax

from ddjax.models import llamagen_trunk
from tests import golden

KINDS = {
    "llamagen_gpt_c2i": "llamagen",
    "llamagen_gpt_t2i": "llamagen",
    "llamagen_vq": "llamagen_tokenizer",
    "dd_llamagen": "llamagen_student",
}
GRID = golden.about("llamagen_gpt_c2i")["sizes"]["grid"]


@functools.cache
def model(name):
    with tempfile.TemporaryDirectory() as folder:
        return golden.converted(Path(folder), name, KINDS[name], grid=GRID)


@functools.cache
def compiled(name):
    return golden.Compiled(model(name))


def tokenizer():
    return model("llamagen_vq")


def decode(x):
    return golden.decode(tokenizer(), x)


def walk(trunk, h, valid):
    """What goes into the blocks, what the first attention gives and what every block gives."""
    length = h.shape[1]
    mask, rope = llamagen_trunk.causal_mask(valid, length, length), trunk.rope()[:length]
    found = {"embed": h}
    for i in range(trunk.transformer.layers):
        block = jax.tree.map(lambda x, i=i: x[i], trunk.transformer.blocks)
        if i == 0:
            normed = block.attention_norm(h)
            found["block0_attn_out"] = block.attention(normed, rope, mask, None, 0)[0]
        h, _ = block(h, rope, mask, None, 0)
        found[f"block{i}"] = h
    return found, h

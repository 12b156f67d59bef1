"""A tiny VAR, its tokenizer and its distilled student, as the original PyTorch code saved them.

Arrays beside them are that code's outputs, float32 on a CPU; images there are [B, C, H, W].
"""

import functools
import tempfile
from pathlib import Path

from tests import golden


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


def decode(x):
    return golden.decode(tokenizer(), x)

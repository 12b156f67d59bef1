"""Conversion tables of LlamaGen's GPT, the teacher, and of its distilled student.

Sizes are read from the shapes, but for the grid and the heads: 3B and 7B have other head widths.
"""

import math

from conversion import student
from conversion.convolutions import layer_rules
from conversion.tables import LINEAR, Rule, Shapes, Table, count, size
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.runtime.errors import UserError

_BLOCK = r"layers\.(?P<layer>\d{1,6})\."
_BLOCKS = "trunk/transformer/blocks/"
_TRUNK = (
    Rule(r"cls_embedding\.embedding_table\.weight", "trunk/condition/embed/embedding"),
    Rule(r"cls_embedding\.uncond_embedding", "trunk/condition/null_features"),
    Rule(r"cls_embedding\.cap_proj\.(fc1|fc2)\.weight", "trunk/condition/{0}/kernel", LINEAR),
    Rule(_BLOCK + r"attention\.(wqkv|wo)\.weight", _BLOCKS + "attention/{0}/kernel", LINEAR),
    Rule(_BLOCK + r"feed_forward\.(w1|w2|w3)\.weight", _BLOCKS + "mlp/{0}/kernel", LINEAR),
    Rule(_BLOCK + r"attention_norm\.weight", _BLOCKS + "attention_norm/scale"),
    Rule(_BLOCK + r"ffn_norm\.weight", _BLOCKS + "mlp_norm/scale"),
    Rule(r"norm\.weight", "trunk/norm/scale"),
    Rule(r"output\.weight", "trunk/head/kernel", LINEAR),
)
# Tables that the code computes, and caches that a sampling run leaves behind.
_IGNORED = (r"freqs_cis", r"causal_mask", r"layers\.\d+\.attention\.kv_cache\..*")

# Heads of the sizes whose head width is not 64, by width.
_HEADS = {3200: 32, 4096: 32}


def _gpt_config(
    shapes: Shapes, code_dim: int, num_heads: int | None, grid: int | None
) -> LlamaGenConfig:
    vocab_size, width = (size(shapes, "output.weight", axis) for axis in (0, 1))
    if "cls_embedding.uncond_embedding" in shapes:
        tokens, caption_dim = (size(shapes, "cls_embedding.uncond_embedding", i) for i in (0, 1))
        condition = {"caption_tokens": tokens, "caption_dim": caption_dim}
    else:
        # The last class is the null class.
        rows = size(shapes, "cls_embedding.embedding_table.weight", 0)
        tokens, condition = 1, {"num_classes": rows - 1}
    return LlamaGenConfig(
        vocab_size=vocab_size,
        code_dim=code_dim,
        grid=_grid(shapes, tokens, grid),
        width=width,
        layers=count(shapes, _BLOCK.replace("?P<layer>", "") + ".*"),
        heads=num_heads or _heads(width),
        **condition,
    )


def _heads(width: int) -> int:
    if width not in _HEADS and width % 64:
        raise UserError(f"the width {width} is no multiple of 64; say --num_heads")
    return _HEADS.get(width, width // 64)


def _grid(shapes: Shapes, condition_tokens: int, given: int | None) -> int:
    """As given; else by the rotary table in the file, if it is one; else 16, for 256 pixels.

    The table is computed by whoever uses the weights, and one that was left in is ignored.
    """
    shape = shapes.get("freqs_cis", ())
    length = max(shape[0] - condition_tokens, 0) if len(shape) == 3 else 0
    found = math.isqrt(length)
    return given or (found if found**2 == length and found else 16)


def _teacher_config(
    shapes: Shapes,
    *,
    num_heads: int | None = None,
    grid: int | None = None,
    code_dim: int = 8,
) -> LlamaGenConfig:
    return _gpt_config(shapes, code_dim, num_heads, grid)


def _student_config(
    shapes: Shapes, *, num_heads: int | None = None, grid: int | None = None
) -> LlamaGenConfig:
    return _gpt_config(shapes, size(shapes, "tok_embeddings.weight", 1), num_heads, grid)


TEACHER = Table(
    kind="llamagen",
    rules=(*_TRUNK, Rule(r"tok_embeddings\.weight", "token_embed/embedding")),
    ignored=_IGNORED,
    config=_teacher_config,
)

STUDENT = Table(
    kind="llamagen_student",
    rules=(
        *_TRUNK,
        *layer_rules(r"tok_embeddings", "code_embed", LINEAR),
        *student.ADDED,
    ),
    ignored=_IGNORED,
    config=_student_config,
    places=(("ema",), ("model",)),
)

"""LlamaGen's names: GPT (teacher), its distilled student, VQ tokenizer.

The published sizes but for the grid stand in the shapes; 3B and 7B have head widths of their own.
"""

from typing import Any

import numpy as np

from conversion.convolutions import layer_rules, norm_rules, res_rules
from conversion.tables import LINEAR, Rule, Shapes, Table, count, size
from ddjax.errors import UserError
from ddjax.models.llamagen import GPTConfig
from ddjax.models.vq import VQConfig

_BLOCK = r"layers\.(?P<layer>\d+)\."
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
) -> GPTConfig:
    vocab_size, width = (size(shapes, "output.weight", axis) for axis in (0, 1))
    if "cls_embedding.uncond_embedding" in shapes:
        tokens, caption_dim = (size(shapes, "cls_embedding.uncond_embedding", i) for i in (0, 1))
        condition = {"caption_tokens": tokens, "caption_dim": caption_dim}
    else:
        # The last class is the null class.
        rows = size(shapes, "cls_embedding.embedding_table.weight", 0)
        tokens, condition = 1, {"num_classes": rows - 1}
    return GPTConfig(
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
    """From the rotary table where the file has it; else 16, images of 256 pixels."""
    if "freqs_cis" not in shapes:
        return given or 16
    found = round((size(shapes, "freqs_cis", 0) - condition_tokens) ** 0.5)
    if given not in (None, found):
        raise UserError(f"--grid={given}, but the rotary table is for {found}; leave --grid out")
    return found


def _teacher_config(
    shapes: Shapes,
    *,
    num_heads: int | None = None,
    grid: int | None = None,
    code_dim: int = 8,
) -> GPTConfig:
    return _gpt_config(shapes, code_dim, num_heads, grid)


def _student_config(
    shapes: Shapes, *, num_heads: int | None = None, grid: int | None = None
) -> GPTConfig:
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
        Rule(r"n_d_embed\.weight", "noise_data_embed/embedding"),
        Rule(r"final_layer_conti\.scale_shift_table", "vector_head/shift_scale"),
        *layer_rules(r"final_layer_conti\.linear", "vector_head/linear", LINEAR),
    ),
    ignored=_IGNORED,
    config=_student_config,
    places=(("ema",), ("model",)),
)


def _attention_rules(source: str, target: str, groups: int) -> tuple[Rule, ...]:
    return (
        *norm_rules(source + r"\.norm", target + "/norm"),
        *layer_rules(source + r"\.([qkv])", f"{target}/{{{groups}}}"),
        *layer_rules(source + r"\.proj_out", target + "/out"),
    )


def _half_rules(half: str) -> tuple[Rule, ...]:
    """Encoder or decoder."""
    level = half + r"\.conv_blocks\.(\d+)"
    return (
        *layer_rules(half + r"\.(conv_in|conv_out)", half + "/{0}"),
        *norm_rules(half + r"\.norm_out", half + "/norm_out/norm"),
        *res_rules(level + r"\.res\.(\d+)", half + "/levels/{0}/res/{1}", 2),
        *_attention_rules(level + r"\.attn\.(\d+)", half + "/levels/{0}/attn/{1}", 2),
        *res_rules(half + r"\.mid\.0", half + "/middle/res1", 0),
        *_attention_rules(half + r"\.mid\.1", half + "/middle/attn", 0),
        *res_rules(half + r"\.mid\.2", half + "/middle/res2", 0),
    )


def _vq_config(shapes: Shapes, *, grid: int | None = None) -> VQConfig:
    level = r"encoder\.conv_blocks\.(\d+)\..*"
    channels = size(shapes, "encoder.conv_in.weight", 0)
    levels = range(count(shapes, level))
    widths = [size(shapes, f"encoder.conv_blocks.{i}.res.0.conv1.weight", 0) for i in levels]
    vocab_size, code_dim = (size(shapes, "quantize.embedding.weight", axis) for axis in (0, 1))
    patch = 2 ** (len(widths) - 1)
    return VQConfig(
        image_size=patch * grid if grid else 256,
        image_channels=size(shapes, "encoder.conv_in.weight", 1),
        vocab_size=vocab_size,
        code_dim=code_dim,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(shapes, r"encoder\.conv_blocks\.0\.res\.(\d+)\..*"),
        z_channels=size(shapes, "encoder.conv_out.weight", 0),
    )


def _vq_buffers(config: VQConfig) -> dict[str, Any]:
    # The original's record of codes in use, which its strict loading asks for.
    return {"quantize.codebook_used": np.zeros(65536, np.float32)}


TOKENIZER = Table(
    kind="llamagen_tokenizer",
    rules=(
        *_half_rules("encoder"),
        *_half_rules("decoder"),
        *layer_rules(r"encoder\.conv_blocks\.(\d+)\.downsample\.conv", "encoder/down/{0}"),
        *layer_rules(r"decoder\.conv_blocks\.(\d+)\.upsample\.conv", "decoder/up/{0}"),
        *layer_rules(r"(quant_conv|post_quant_conv)", "{0}"),
        Rule(r"quantize\.embedding\.weight", "embedding"),
    ),
    ignored=(r"quantize\.codebook_used",),
    config=_vq_config,
    buffers=_vq_buffers,
)

"""Conversion table of LlamaGen's VQ tokenizer."""

import numpy as np

from conversion.convolutions import layer_rules, norm_rules, res_rules
from conversion.tables import Array, Rule, Shapes, Table, count, size
from ddjax.models.vq import VQTokenizerConfig


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


def _vq_config(shapes: Shapes, *, grid: int | None = None) -> VQTokenizerConfig:
    level = r"encoder\.conv_blocks\.(\d+)\..*"
    channels = size(shapes, "encoder.conv_in.weight", 0)
    levels = range(count(shapes, level))
    widths = [size(shapes, f"encoder.conv_blocks.{i}.res.0.conv1.weight", 0) for i in levels]
    vocab_size, code_dim = (size(shapes, "quantize.embedding.weight", axis) for axis in (0, 1))
    patch = 2 ** (len(widths) - 1)
    return VQTokenizerConfig(
        image_size=patch * grid if grid else 256,
        image_channels=size(shapes, "encoder.conv_in.weight", 1),
        vocab_size=vocab_size,
        code_dim=code_dim,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(shapes, r"encoder\.conv_blocks\.0\.res\.(\d+)\..*"),
        z_channels=size(shapes, "encoder.conv_out.weight", 0),
    )


def _vq_buffers(config: VQTokenizerConfig) -> dict[str, Array]:
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

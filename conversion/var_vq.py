"""Conversion table of VAR's multi-scale tokenizer; the teacher holds its quantiser as well."""

import numpy as np

from conversion.convolutions import layer_rules, norm_rules, res_rules
from conversion.tables import CONV, IDENTITY, Array, Rule, Shapes, Table, count, size
from ddjax.models.multiscale import SCALES, check_scales
from ddjax.models.multiscale_vq import MultiscaleTokenizerConfig
from ddjax.runtime.errors import UserError

# Resolutions in the published tokenizer: 16 pixels a token.
LEVELS = 5

# How often each code was met in training.
RECORDS = (r"quantize\.ema_vocab_hit_SV",)

_PHI = r"quantize\.quant_resi\.qresi_ls\.(?P<layer>\d{1,6})\."
QUANTISER = (
    Rule(r"quantize\.embedding\.weight", "quantiser/embedding"),
    Rule(_PHI + r"weight", "quantiser/phi_weights", CONV),
    Rule(_PHI + r"bias", "quantiser/phi_biases"),
)


def _attention_rules(source: str, target: str) -> tuple[Rule, ...]:
    """An attention block; one convolution there is q, k and v here."""
    return (
        *norm_rules(source + r"\.norm", target + "/norm"),
        *(
            Rule(source + rf"\.qkv\.{theirs}", f"{target}/{name}/{ours}", transform.of(i, 3))
            for i, name in enumerate("qkv")
            for theirs, ours, transform in (("weight", "kernel", CONV), ("bias", "bias", IDENTITY))
        ),
        *layer_rules(source + r"\.proj_out", target + "/out"),
    )


def _half_rules(half: str) -> tuple[Rule, ...]:
    """What encoder and decoder have in common."""
    return (
        *layer_rules(half + r"\.(conv_in|conv_out)", half + "/{0}"),
        *norm_rules(half + r"\.norm_out", half + "/norm_out/norm"),
        *res_rules(half + r"\.mid\.block_([12])", half + "/middle/res{0}", 1),
        *_attention_rules(half + r"\.mid\.attn_1", half + "/middle/attn"),
    )


def _level_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Residual blocks and attention of a resolution."""
    return (
        *res_rules(source + r"\.block\.(\d+)", target + "/res/{0}", 1),
        *_attention_rules(source + r"\.attn\.(\d+)", target + "/attn/{0}"),
    )


def _levels() -> tuple[Rule, ...]:
    """All resolutions; the decoder's are counted from the highest there, from the lowest here."""
    rules = []
    for i in range(LEVELS):
        up, mirrored = rf"decoder\.up\.{LEVELS - 1 - i}", f"decoder/levels/{i}"
        rules += _level_rules(rf"encoder\.down\.{i}", f"encoder/levels/{i}")
        rules += layer_rules(rf"encoder\.down\.{i}\.downsample\.conv", f"encoder/down/{i}")
        rules += _level_rules(up, mirrored)
        rules += layer_rules(up + r"\.upsample\.conv", f"decoder/up/{i}")
    return tuple(rules)


def _tokenizer_config(
    shapes: Shapes, *, scales: tuple[int, ...] = SCALES
) -> MultiscaleTokenizerConfig:
    """Nothing in a tokenizer's shapes tells the scales."""
    check_scales(scales)
    record = "quantize.ema_vocab_hit_SV"
    if record in shapes and size(shapes, record, 0) != len(scales):
        raise UserError(
            f"the checkpoint has {size(shapes, record, 0)} scales, "
            f"--scales={','.join(map(str, scales))} is {len(scales)}; give its own"
        )
    channels = size(shapes, "encoder.conv_in.weight", 0)
    widths = [size(shapes, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(LEVELS)]
    vocab_size, code_dim = (size(shapes, "quantize.embedding.weight", axis) for axis in (0, 1))
    return MultiscaleTokenizerConfig(
        image_size=scales[-1] * 2 ** (LEVELS - 1),
        image_channels=size(shapes, "encoder.conv_in.weight", 1),
        vocab_size=vocab_size,
        code_dim=code_dim,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(shapes, r"encoder\.down\.0\.block\.(\d+)\..*"),
        z_channels=size(shapes, "encoder.conv_out.weight", 0),
        scales=tuple(scales),
    )


def _tokenizer_buffers(config: MultiscaleTokenizerConfig) -> dict[str, Array]:
    shape = (len(config.scales), config.vocab_size)
    return {"quantize.ema_vocab_hit_SV": np.zeros(shape, np.float32)}


TOKENIZER = Table(
    kind="var_tokenizer",
    rules=(
        *_half_rules("encoder"),
        *_half_rules("decoder"),
        *_levels(),
        *layer_rules(r"(quant_conv|post_quant_conv)", "{0}"),
        *QUANTISER,
    ),
    ignored=RECORDS,
    config=_tokenizer_config,
    buffers=_tokenizer_buffers,
    places=((),),
)

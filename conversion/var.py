"""Tables for VAR: teacher, distilled student and multi-scale tokenizer.

Names on the left are those of github.com/FoundationVision/VAR and of the released Distilled
Decoding code. The teacher holds the tokenizer's quantiser, so it is converted from both files.
"""

import numpy as np

from conversion.convolutions import layer_rules, norm_rules, res_rules
from conversion.tables import (
    CONV,
    IDENTITY,
    LINEAR,
    Rule,
    Shapes,
    Table,
    Transform,
    count,
    size,
)
from ddjax.errors import UserError
from ddjax.groups import Groups
from ddjax.models.multiscale import SCALES
from ddjax.models.multiscale_vq import MultiscaleVQConfig
from ddjax.models.var import block_causal_mask, student_mask
from ddjax.models.var_trunk import VARConfig

# The published tokenizer, of all depths.
TOKENIZER_FILE = "vae_ch160v4096z32.pth"

# Resolutions in the published tokenizer: 16 pixels a token.
LEVELS = 5

_FIRST = Transform(lambda x: x[0], lambda x: x[None])
_START = Transform(lambda x: x[0, 0], lambda x: x[None, None])
_HEADS = Transform(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])

_BLOCK = r"blocks\.(?P<layer>\d+)\."
_BLOCKS = "trunk/blocks/"
_TRUNK = (
    Rule(r"class_emb\.weight", "trunk/condition/embed/embedding"),
    Rule(r"pos_start", "trunk/start", _START),
    Rule(r"pos_1LC", "trunk/position_embed", _FIRST),
    Rule(r"lvl_embed\.weight", "trunk/level_embed"),
    *layer_rules(r"word_embed", "trunk/code_embed", LINEAR),
    Rule(_BLOCK + r"attn\.mat_qkv\.weight", _BLOCKS + "attention/wqkv/kernel", LINEAR),
    Rule(_BLOCK + r"attn\.(q|v)_bias", _BLOCKS + "attention/{0}_bias"),
    Rule(_BLOCK + r"attn\.scale_mul_1H11", _BLOCKS + "attention/log_scale", _HEADS),
    *layer_rules(_BLOCK + r"attn\.proj", _BLOCKS + "attention/wo", LINEAR),
    *layer_rules(_BLOCK + r"ffn\.(fc1|fc2)", _BLOCKS + "mlp/{0}", LINEAR),
    *layer_rules(_BLOCK + r"ada_lin\.1", _BLOCKS + "modulation/linear", LINEAR),
    *layer_rules(r"head_nm\.ada_lin\.1", "trunk/head_modulation/linear", LINEAR),
    *layer_rules(r"head", "trunk/head", LINEAR),
)
# What `_buffers` gives back; a checkpoint may or may not hold it.
_BUFFERS = (r"lvl_1L", r"attn_bias_for_masking", r"blocks\.\d+\.attn\.zero_k_bias")

# How often each code was met in training.
_RECORDS = (r"quantize\.ema_vocab_hit_SV",)

_PHI = r"quantize\.quant_resi\.qresi_ls\.(?P<layer>\d+)\."
_QUANTISER = (
    Rule(r"quantize\.embedding\.weight", "quantiser/embedding"),
    Rule(_PHI + r"weight", "quantiser/phi_weights", CONV),
    Rule(_PHI + r"bias", "quantiser/phi_biases"),
)


def _teacher_config(shapes: Shapes, *, scales: tuple[int, ...] = SCALES) -> VARConfig:
    if "quantize.embedding.weight" not in shapes:
        raise UserError(
            f"the quantiser is missing; put {TOKENIZER_FILE} beside it, or give another "
            "tokenizer's checkpoint by --tokenizer"
        )
    return _transformer_config(shapes, scales, levels_before=0)


def _student_config(shapes: Shapes, *, scales: tuple[int, ...] = SCALES) -> VARConfig:
    # The condition is a level of its own before the scales.
    return _transformer_config(shapes, scales, levels_before=1)


def _transformer_config(
    shapes: Shapes, scales: tuple[int, ...], levels_before: int
) -> VARConfig:
    length = size(shapes, "pos_1LC", 1) - levels_before
    _check_scales(scales, length, size(shapes, "lvl_embed.weight", 0) - levels_before)
    vocab_size, width = (size(shapes, "head.weight", axis) for axis in (0, 1))
    return VARConfig(
        vocab_size=vocab_size,
        code_dim=size(shapes, "word_embed.weight", 1),
        width=width,
        layers=count(shapes, r"blocks\.(\d+)\..*"),
        heads=size(shapes, "blocks.0.attn.scale_mul_1H11", 1),
        num_classes=size(shapes, "class_emb.weight", 0) - 1,
        scales=tuple(scales),
    )


def _check_scales(scales: tuple[int, ...], length: int, number: int) -> None:
    """Shapes tell how many scales and tokens there are, not which scales."""
    if (len(scales), sum(side**2 for side in scales)) != (number, length):
        raise UserError(
            f"the checkpoint has {number} scales with {length} tokens, which "
            f"--scales={','.join(map(str, scales))} has not; give its own"
        )


def _buffers(config: VARConfig, levels: Groups, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What the original's strict loading asks for beside the weights."""
    return {
        "lvl_1L": levels.of_token[None].astype(np.int64),
        "attn_bias_for_masking": np.where(mask, 0, -np.inf).astype(np.float32),
        **{
            f"blocks.{i}.attn.zero_k_bias": np.zeros(config.width, np.float32)
            for i in range(config.layers)
        },
    }


def _teacher_buffers(config: VARConfig) -> dict[str, np.ndarray]:
    levels = config.groups
    return _buffers(config, levels, block_causal_mask(levels, levels.length))


def _student_buffers(config: VARConfig) -> dict[str, np.ndarray]:
    levels = Groups((1, *config.groups.sizes))
    return _buffers(config, levels, student_mask(levels))


def _tokenizer_buffers(config: MultiscaleVQConfig) -> dict[str, np.ndarray]:
    shape = (len(config.scales), config.vocab_size)
    return {"quantize.ema_vocab_hit_SV": np.zeros(shape, np.float32)}


TEACHER = Table(
    kind="var",
    rules=(*_TRUNK, *_QUANTISER),
    ignored=(*_BUFFERS, *_RECORDS, r"(encoder|decoder|quant_conv|post_quant_conv)\..*"),
    config=_teacher_config,
    buffers=_teacher_buffers,
    places=((),),
    borrowed=r"quantize\..*",
)

STUDENT = Table(
    kind="var_student",
    rules=(
        *_TRUNK,
        Rule(r"n_d_embed\.weight", "noise_data_embed/embedding"),
        *layer_rules(r"layerwise_n_d_embed\.(?P<layer>\d+)", "noise_data", LINEAR),
        Rule(r"final_layer_conti\.scale_shift_table", "vector_head/shift_scale"),
        *layer_rules(r"final_layer_conti\.linear", "vector_head/linear", LINEAR),
    ),
    ignored=_BUFFERS,
    config=_student_config,
    buffers=_student_buffers,
    places=(("trainer", "ema_parameters"), ("trainer", "var_wo_ddp")),
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
) -> MultiscaleVQConfig:
    """Nothing in a tokenizer's shapes tells the scales."""
    channels = size(shapes, "encoder.conv_in.weight", 0)
    widths = [size(shapes, f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(LEVELS)]
    vocab_size, code_dim = (size(shapes, "quantize.embedding.weight", axis) for axis in (0, 1))
    return MultiscaleVQConfig(
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


TOKENIZER = Table(
    kind="var_tokenizer",
    rules=(
        *_half_rules("encoder"),
        *_half_rules("decoder"),
        *_levels(),
        *layer_rules(r"(quant_conv|post_quant_conv)", "{0}"),
        *_QUANTISER,
    ),
    ignored=_RECORDS,
    config=_tokenizer_config,
    buffers=_tokenizer_buffers,
    places=((),),
)

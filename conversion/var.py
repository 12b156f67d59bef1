"""Conversion tables of VAR, the teacher, and of its distilled student.

Names on the left are those of github.com/FoundationVision/VAR and of the released Distilled
Decoding code. The teacher holds the tokenizer's quantiser, so it is converted from both files.
"""

import numpy as np

from conversion import student
from conversion.convolutions import layer_rules
from conversion.tables import LINEAR, Rule, Shapes, Table, Transform, count, size
from conversion.var_vq import QUANTISER, RECORDS
from ddjax.method.groups import Groups
from ddjax.models.multiscale import SCALES
from ddjax.models.var import block_causal_mask, student_mask
from ddjax.models.var_trunk import VARConfig
from ddjax.runtime.errors import UserError

# The published tokenizer, the same for all depths.
TOKENIZER_FILE = "vae_ch160v4096z32.pth"

_FIRST = Transform(lambda x: x[0], lambda x: x[None])
_START = Transform(lambda x: x[0, 0], lambda x: x[None, None])
_HEADS = Transform(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])

_BLOCK = r"blocks\.(?P<layer>\d{1,6})\."
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


TEACHER = Table(
    kind="var",
    rules=(*_TRUNK, *QUANTISER),
    ignored=(*_BUFFERS, *RECORDS, r"(encoder|decoder|quant_conv|post_quant_conv)\..*"),
    config=_teacher_config,
    buffers=_teacher_buffers,
    places=((),),
    borrowed=r"quantize\..*",
)

STUDENT = Table(
    kind="var_student",
    rules=(
        *_TRUNK,
        *student.ADDED,
        *layer_rules(r"layerwise_n_d_embed\.(?P<layer>\d{1,6})", "noise_data", LINEAR),
    ),
    ignored=_BUFFERS,
    config=_student_config,
    buffers=_student_buffers,
    places=(("trainer", "ema_parameters"), ("trainer", "var_wo_ddp")),
)

"""Conversion table of the T5 encoder: the published v1.1 and flan checkpoints, without decoder."""

from conversion.tables import LINEAR, Rule, Shapes, Table, count, size
from ddjax.models.t5 import T5Config

_BLOCK = r"encoder\.block\.(?P<layer>\d+)\.layer"


def _config(shapes: Shapes) -> T5Config:
    blocks = count(shapes, r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.q\.weight")
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    heads = size(shapes, table, 1)
    return T5Config(
        vocab_size=size(shapes, "shared.weight", 0),
        width=size(shapes, "shared.weight", 1),
        heads=heads,
        head_width=size(shapes, "encoder.block.0.layer.0.SelfAttention.q.weight", 0) // heads,
        layers=blocks,
        hidden=size(shapes, "encoder.block.0.layer.1.DenseReluDense.wo.weight", 1),
    )


ENCODER = Table(
    kind="t5",
    rules=(
        Rule(r"shared\.weight", "embedding"),
        Rule(
            r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
            "positions",
        ),
        Rule(rf"{_BLOCK}\.0\.layer_norm\.weight", "blocks/attention_norm/scale"),
        Rule(rf"{_BLOCK}\.0\.SelfAttention\.([qkvo])\.weight", "blocks/{0}/kernel", LINEAR),
        Rule(rf"{_BLOCK}\.1\.layer_norm\.weight", "blocks/mlp_norm/scale"),
        Rule(
            rf"{_BLOCK}\.1\.DenseReluDense\.(wi_0|wi_1|wo)\.weight", "blocks/{0}/kernel", LINEAR
        ),
        Rule(r"encoder\.final_layer_norm\.weight", "norm/scale"),
    ),
    ignored=(r"decoder\..*", r"lm_head\.weight"),
    config=_config,
    places=((),),
    aliases={"encoder.embed_tokens.weight": "shared.weight"},
    invertible=False,  # what is published holds a decoder too
)

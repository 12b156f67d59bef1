"""Conversion table of CLIP's vision transformers, in the names of github.com/openai/CLIP."""

from conversion.convolutions import layer_rules, norm_rules
from conversion.tables import CONV, IDENTITY, LINEAR, Rule, Shapes, Table, count, size
from ddjax.models.clip import CLIPConfig
from ddjax.runtime.errors import UserError

# In all published sizes.
_HEAD_WIDTH = 64


def _tower_rules(source: str, target: str) -> tuple[Rule, ...]:
    """The blocks of a tower; one matrix there is q, k and v here."""
    block, ours = rf"{source}\.resblocks\.(?P<layer>\d{{1,6}})\.", f"{target}/blocks/"
    return (
        *norm_rules(block + "ln_1", ours + "attention_norm"),
        *(
            Rule(rf"{block}attn\.in_proj_{theirs}", f"{ours}{name}/{our}", transform.of(i, 3))
            for i, name in enumerate("qkv")
            for theirs, our, transform in (("weight", "kernel", LINEAR), ("bias", "bias", IDENTITY))
        ),
        *layer_rules(block + r"attn\.out_proj", ours + "o", LINEAR),
        *norm_rules(block + "ln_2", ours + "mlp_norm"),
        *layer_rules(block + r"mlp\.c_fc", ours + "fc1", LINEAR),
        *layer_rules(block + r"mlp\.c_proj", ours + "fc2", LINEAR),
    )


def _config(shapes: Shapes) -> CLIPConfig:
    if "visual.proj" not in shapes and "visual.attnpool.c_proj.weight" in shapes:
        raise UserError("its image tower is a ResNet; give one of the ViT files")
    if "vision_model.embeddings.class_embedding" in shapes:
        raise UserError("it has the names of transformers; give OpenAI's file, such as ViT-B-32.pt")
    patches = size(shapes, "visual.positional_embedding", 0) - 1
    patch = size(shapes, "visual.conv1.weight", 3)
    return CLIPConfig(
        embedding=size(shapes, "text_projection", 1),
        resolution=_side(patches) * patch,
        patch=patch,
        **_tower(shapes, "image", "visual.transformer", "visual.class_embedding", 0),
        vocab_size=size(shapes, "token_embedding.weight", 0),
        text_tokens=size(shapes, "positional_embedding", 0),
        **_tower(shapes, "text", "transformer", "positional_embedding", 1),
    )


def _tower(shapes: Shapes, tower: str, blocks: str, name: str, axis: int) -> dict[str, int]:
    width = size(shapes, name, axis)
    if width % _HEAD_WIDTH:
        raise UserError(f"the {tower} tower's width {width} is no multiple of {_HEAD_WIDTH}")
    return {
        f"{tower}_width": width,
        f"{tower}_heads": width // _HEAD_WIDTH,
        f"{tower}_layers": count(shapes, rf"{blocks}\.resblocks\.(\d+)\..*"),
    }


def _side(patches: int) -> int:
    side = round(patches**0.5)
    if side < 1 or side**2 != patches:
        raise UserError(f"visual.positional_embedding is for {patches} patches, must be a square")
    return side


CLIP = Table(
    kind="clip",
    rules=(
        Rule(r"visual\.conv1\.weight", "image/patches/kernel", CONV),
        Rule(r"visual\.class_embedding", "image/start"),
        Rule(r"visual\.positional_embedding", "image/positions"),
        *norm_rules(r"visual\.ln_pre", "image/first_norm"),
        *_tower_rules(r"visual\.transformer", "image"),
        *norm_rules(r"visual\.ln_post", "image/norm"),
        Rule(r"visual\.proj", "image/projection"),
        Rule(r"token_embedding\.weight", "text/embedding"),
        Rule(r"positional_embedding", "text/positions"),
        *_tower_rules("transformer", "text"),
        *norm_rules("ln_final", "text/norm"),
        Rule(r"text_projection", "text/projection"),
        Rule(r"logit_scale", "logit_scale"),
    ),
    # Sizes that stand among the weights of the published archives, and masks that follow from them.
    ignored=("input_resolution", "context_length", "vocab_size", r"(.*\.)?attn_mask"),
    config=_config,
    places=((),),
)

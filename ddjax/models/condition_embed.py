"""Condition embeddings: a class label or a caption becomes tokens in front of the image's.

They follow github.com/FoundationVision/LlamaGen, so that its weights convert.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class ClassEmbedding(nnx.Module):
    """A label per image, [B] int32, as one token; `num_classes` is the null label."""

    tokens = 1

    def __init__(self, num_classes: int, width: int, rngs: nnx.Rngs) -> None:
        self.num_classes = num_classes
        self.embed = nnx.Embed(num_classes + 1, width, rngs=rngs)

    def null(self, labels_B: jax.Array) -> jax.Array:
        """The null label for each image, [B]."""
        return jnp.full_like(labels_B, self.num_classes)

    def __call__(self, labels_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, 1, D] and which of them count, [B, 1] bool: all."""
        return self.embed(labels_B)[:, None], jnp.ones((len(labels_B), 1), bool)


class CaptionEmbedding(nnx.Module):
    """T5 features of a caption, {"features": [B, T, E], "mask": [B, T] bool}, as T tokens.

    The mask says which features count. They stand at the right end, next to the image: see
    `left_padded`. Two linear layers project them to the width of the transformer.

    Args:
      tokens: T.
      caption_dim: E, width of the features.
      width: D, of the transformer.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(
        self, tokens: int, caption_dim: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.tokens = tokens
        start = nnx.initializers.normal(caption_dim**-0.5)
        self.null_features = nnx.Param(start(rngs.params(), (tokens, caption_dim)))
        self.fc1 = nnx.Linear(caption_dim, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)

    def null(self, condition: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The learned null caption [B, T, E] under the mask of `condition`, as in the original."""
        features = condition["features"]
        null = jnp.broadcast_to(self.null_features[...][None], features.shape)
        return {"features": null.astype(features.dtype), "mask": condition["mask"]}

    def __call__(self, condition: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, T, D] and which of them count, [B, T] bool."""
        mask = condition["mask"].astype(bool)
        return self.fc2(jax.nn.gelu(self.fc1(condition["features"]))), mask


def left_padded(features_BTE: jax.Array, mask_BT: jax.Array) -> dict[str, jax.Array]:
    """A caption condition from T5's features, whose padding is at the right.

    Args:
      features_BTE: features; their values in the padding do not matter.
      mask_BT: true for the first tokens of each row, those of the caption.

    Returns:
      {"features": [B, T, E], "mask": [B, T] bool}: the caption at the right end, zeros before it.
    """
    mask = mask_BT.astype(bool)
    tokens = mask.shape[1]
    source = (jnp.arange(tokens)[None] + mask.sum(axis=1, keepdims=True)) % tokens
    kept = jnp.where(mask[..., None], features_BTE, 0)
    return {
        "features": jnp.take_along_axis(kept, source[..., None], axis=1),
        "mask": mask[:, ::-1],
    }


def pooled(tokens_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """The mean [B, 1, D] over the tokens that count, float32; of a class, its one token."""
    weight = mask_BT[..., None].astype(jnp.float32)
    total = jnp.sum(tokens_BTD * weight, axis=1, keepdims=True)
    return total / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1)


def make(config: Any, dtype: jnp.dtype, rngs: nnx.Rngs) -> ClassEmbedding | CaptionEmbedding:
    """The embedding that a config asks for.

    Args:
      config: a `ddjax.models.llamagen_trunk.LlamaGenConfig`.
      dtype: of the computation.
      rngs: of the initial weights.
    """
    if config.caption_tokens:
        return CaptionEmbedding(
            config.caption_tokens, config.caption_dim, config.width, dtype, rngs
        )
    return ClassEmbedding(config.num_classes, config.width, rngs)

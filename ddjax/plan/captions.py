"""Captions in a plan: what the text encoder costs, and how large a cache of features is."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.config.schema import Config
from ddjax.data import conditions
from ddjax.plan import memory
from ddjax.runtime import flops
from ddjax.runtime.errors import UserError
from ddjax.stages import caption_features
from ddjax.storage import model_folder, run_models
from ddjax.storage.feature_cache import FeatureCache

# Captions whose tokens are counted.
_COUNTED = 1000


class Encoding(NamedTuple):
    """What encoding a batch costs on a device; bytes are of weights and of intermediate values."""

    operations: float = 0.0
    traffic: float = 0.0
    weights: float = 0.0
    peak: float = 0.0


def shapes(config: Config, batch: int) -> Any:
    """What models read of a batch, as shapes and types; texts and encoder are not looked at."""
    if config.text is None:
        return run_models.conditions(config).shapes(batch)
    model = config.teacher.model
    return conditions.feature_shapes(batch, model.caption_tokens, model.caption_dim)


def encoding(config: Config, batch: int) -> Encoding:
    """The cost of a batch of captions, where they are texts and no cache has their features."""
    if config.text is None or config.text.cache:
        return Encoding()
    encoder = model_folder.template(config.text.kind, config.text.model)
    tokens = [jax.ShapeDtypeStruct((batch, config.teacher.model.caption_tokens), kind)
              for kind in (jnp.int32, jnp.bool_)]
    jaxpr = jax.make_jaxpr(lambda encoder, *tokens: encoder.embed_text(*tokens))(
        encoder, *tokens
    ).jaxpr
    return Encoding(
        flops.operations(jaxpr), flops.traffic(jaxpr), memory.size(encoder), memory.peak(jaxpr)
    )


def cache_size(config: Config, devices: int) -> str:
    """A line about a cache of features on disk, from the tokens of some captions."""
    try:
        given = run_models.conditions(config)
    except UserError as error:
        return f"A cache of features: its size is not known ({error})."
    read = caption_features.captions_read(config, given.count, devices)
    shards = FeatureCache(Path(), given.count, given.width).shards(read)
    count = max(numbers.stop for numbers in shards.values())
    counted = np.unique(np.linspace(0, count - 1, min(count, _COUNTED)).astype(int))
    mean = given.take(counted)["mask"].sum() / len(counted)
    size = count * mean * given.width * jnp.bfloat16.dtype.itemsize
    return (
        f"A cache of features, config.text.cache: {count} captions x {mean:.1f} tokens (mean of "
        f"{len(counted)}) x {given.width} x 2 bytes = {size / 1e9:.3f} GB on disk. With it the "
        "stages pairs, distill and evaluate do not need the text encoder."
    )

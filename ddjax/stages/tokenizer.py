"""Stage `tokenizer`: train a small VQ tokenizer on images."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.config.schema import Config, TokenizerSection
from ddjax.data import datasets
from ddjax.data.sources import Arrays
from ddjax.evaluation import pictures
from ddjax.method import codes
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.training import loop


def loss(
    model: nnx.Module,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    config: TokenizerSection,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Squared error of the image, codebook and commitment losses (VQ-VAE, arXiv 1711.00937).

    Besides an entropy term that keeps all codes in use (as in MAGVIT-v2, arXiv 2310.05737):
    low for each feature, high over the batch.

    Args:
      model: being trained.
      frozen: nothing.
      batch: "image" [B, H, W, channels].
      key: unused.
      config: weights of the terms.

    Returns:
      The loss, a scalar, and other scalars by name.
    """
    del frozen, key
    features, codes_VC = model.features(batch["image"]), model.codebook
    ids = codes.nearest_ids(features, codes_VC)
    quantised = codes_VC[ids]
    stop = jax.lax.stop_gradient
    image = model.decode(features + stop(quantised - features))
    error = jnp.mean((image - batch["image"]) ** 2)
    codebook = jnp.mean(jnp.sum((quantised - stop(features)) ** 2, axis=-1))
    commitment = jnp.mean(jnp.sum((stop(quantised) - features) ** 2, axis=-1))
    affinity = jax.nn.softmax(10 * jnp.einsum("blc,vc->blv", features, codes_VC), axis=-1)
    single = jnp.mean(entropy(affinity))
    overall = entropy(jnp.mean(affinity, axis=(0, 1)))
    value = error + codebook + config.commitment * commitment
    value = value + config.entropy * (single - overall)
    used = jnp.zeros(codes_VC.shape[0]).at[ids.reshape(-1)].set(1).sum()
    return value, {"squared_error": error, "codes_in_batch": used}


def entropy(p: jax.Array) -> jax.Array:
    """Entropy [...] in nats of p [..., V]."""
    return -jnp.sum(p * jnp.log(p + 1e-9), axis=-1)


def run(config: Config, directory: Path) -> str:
    """Train; returns one line about it."""
    rows = datasets.load(config.data)
    section = config.tokenizer
    cls = MODELS[section.kind]
    shown = rows["image"][:40]

    def reconstructions(model: nnx.Module) -> dict[str, np.ndarray]:
        both = np.stack([shown, sharding.to_host(reconstruct(model, shown))], axis=1)
        return {"image_and_reconstruction": pictures.tile(both.reshape(-1, *shown.shape[1:]), 10)}

    model = loop.train(
        name="tokenizer",
        directory=directory,
        kind=section.kind,
        init=lambda rngs: cls(section.model, rngs=rngs),
        loss=functools.partial(loss, config=section),
        frozen=None,
        source=Arrays(rows),
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        pictures=reconstructions,
    )
    ids = encode(model, rows["image"])
    error = np.mean((sharding.to_host(reconstruct(model, shown)) - shown) ** 2)
    used = len(np.unique(ids))
    return f"{section.train.steps} steps; squared error {error:.4f}; {used} of " \
        f"{section.model.vocab_size} codes in use"


@jax.jit
def reconstruct(model: nnx.Module, images: jax.Array) -> jax.Array:
    """Images [B, H, W, channels] through ids and back."""
    return model.decode(model.codebook[model.encode(images)])


def encode(model: nnx.Module, images: np.ndarray, batch: int = 512) -> np.ndarray:
    """Ids [N, L] of all images, in batches."""
    one = jax.jit(lambda model, images: model.encode(images))
    starts = range(0, len(images), batch)
    return np.concatenate([sharding.to_host(one(model, images[i : i + batch])) for i in starts])

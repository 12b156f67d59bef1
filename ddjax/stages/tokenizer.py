"""Stage `tokenizer`: train a VQ tokenizer on images."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import entr

from ddjax.config.schema import Config, TokenizerSection
from ddjax.data.sources import some_of, whole
from ddjax.evaluation import pictures
from ddjax.method import codes
from ddjax.method.protocols import FeatureNet, Tokenizer
from ddjax.models import MODELS
from ddjax.runtime import sharding
from ddjax.stages import feature_net, images
from ddjax.training import loop

# Images that errors are measured on.
MEASURED = 1000


def loss(
    model: Tokenizer,
    frozen: FeatureNet | None,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    config: TokenizerSection,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Squared error of the image, codebook and commitment losses (VQ-VAE, arXiv 1711.00937).

    Besides, where they have a weight: a perceptual distance of the images (VQGAN, arXiv
    2012.09841), and an entropy term that keeps all codes in use (as in MAGVIT-v2, arXiv
    2310.05737): low for each feature, high over the batch.

    Args:
      model: being trained.
      frozen: the net of the perceptual distance.
      batch: "image" [B, H, W, channels].
      key: unused.
      config: weights of the terms.

    Returns:
      The loss, a scalar, and other scalars by name.
    """
    del key
    found, codes_VC = model.autoencode(batch["image"]), model.codebook
    error = jnp.mean((found.image - batch["image"]) ** 2)
    value = error + found.codebook + config.commitment * found.commitment
    if config.entropy:
        inner = jnp.einsum("blc,vc->blv", found.features_BLC, codes_VC)
        affinity = jax.nn.softmax(10 * inner, axis=-1)
        single = jnp.mean(entropy(affinity))
        overall = entropy(jnp.mean(affinity, axis=(0, 1)))
        value = value + config.entropy * (single - overall)
    used = jnp.zeros(codes_VC.shape[0]).at[found.ids_BL.reshape(-1)].set(1).sum()
    scalars = {"squared_error": error, "codes_in_batch": used, "quantisation": found.commitment}
    if config.perceptual:
        scalars["perceptual"] = jnp.mean(frozen.distance(found.image, batch["image"]))
        value = value + config.perceptual * scalars["perceptual"]
    return value, scalars


def entropy(p: jax.Array) -> jax.Array:
    """Entropy [...] in nats of p [..., V]."""
    return -jnp.sum(p * jnp.log(p + 1e-9), axis=-1)


def revive(
    model: Tokenizer, batch: dict[str, jax.Array], key: jax.Array, step: jax.Array, *,
    every: int, until: int,
) -> Tokenizer:
    """The tokenizer with its dead codes put elsewhere, at each `every`-th step before `until`.

    Dead is a code that no feature of the batch is nearest to. It takes the place of a feature, and
    of those the likelier, the further it is from all codes: by the square of the distance, as in
    k-means++ (Arthur and Vassilvitskii, 2007). At step 0 nearly all codes are dead, so that the
    codebook starts from the data.

    Args:
      model: being trained.
      batch: "image" [B, H, W, channels].
      key: of the choice.
      step: number of the step.
      every: steps between two looks.
      until: first step of the training at which codes stay as they are.
    """

    def revived(model: Tokenizer) -> Tokenizer:
        features, codes_VC = model.features(batch["image"]), model.codebook
        features_TC = features.reshape(-1, features.shape[-1])
        ids_T = codes.nearest_ids(features_TC, codes_VC)
        far_T = jnp.sum((features_TC - codes_VC[ids_T]) ** 2, axis=-1)
        vocab, tokens = codes_VC.shape[0], ids_T.shape[0]
        chosen_V = jax.random.choice(
            key, tokens, (vocab,), replace=tokens < vocab, p=far_T / jnp.sum(far_T)
        )
        is_used_V = jnp.zeros(vocab, bool).at[ids_T].set(True)
        return model.with_codes(jnp.where(is_used_V[:, None], codes_VC, features_TC[chosen_V]))

    now = (step % every == 0) & (step < until)
    return jax.lax.cond(now, revived, lambda model: model, model)


def run(config: Config, directory: Path) -> str:
    """Train; returns one line about it."""
    data, section = images.opened(config, directory.parent), config.tokenizer
    cls, net, revise = MODELS[section.kind], None, None
    if section.perceptual:
        net = feature_net.load(
            "tokenizer's perceptual net", "tokenizer.perceptual_net", directory.parent,
            "tokenizer/perceptual_net", section.perceptual_net, config,
        )
    if section.revive_every:
        revise = functools.partial(
            revive, every=section.revive_every, until=section.train.steps // 2
        )
    measured = some_of(data.unseen if section.hold_out else data, MEASURED)
    shown = whole(some_of(measured, 40))["image"]
    model = loop.train(
        name="tokenizer",
        directory=directory,
        kind=section.kind,
        init=lambda rngs: cls(section.model, rngs=rngs),
        loss=functools.partial(loss, config=section),
        frozen=net,
        source=data.seen if section.hold_out else data,
        seed=config.seed,
        config=section.train,
        restore=config.restore,
        profile=config.profile,
        pictures=lambda model: {"image_and_reconstruction": side_by_side(model, shown)},
        revise=revise,
    )
    rebuilt = images.over(reconstruct, model, measured, images.batch(config))
    wanted = whole(measured)["image"]
    error = np.mean((np.concatenate(list(rebuilt)) - wanted) ** 2)
    count_V = np.bincount(np.ravel(images.ids(config, directory, model, data)))
    where = " on images it has not seen" if section.hold_out else ""
    return f"{section.train.steps} steps; squared error {error:.4f}{where}; " \
        f"{np.count_nonzero(count_V)} of {section.model.vocab_size} codes in use, as many as " \
        f"{np.exp(entr(count_V / count_V.sum()).sum()):.0f} used alike"


def side_by_side(model: Tokenizer, shown: np.ndarray) -> np.ndarray:
    """A picture of images [N, H, W, channels], each with its reconstruction on the right."""
    both = np.stack([shown, sharding.to_host(reconstruct(model, shown))], axis=1)
    return pictures.tile(both.reshape(-1, *shown.shape[1:]), 10)


@jax.jit
def reconstruct(model: nnx.Module, images: jax.Array) -> jax.Array:
    """Images [B, H, W, channels] through ids and back."""
    return model.decode(model.codebook[model.encode(images)])

"""Train a small classifier: features for the evaluation, and for the perceptual loss."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax import data, keys, train
from ddjax.config import Model
from ddjax.models import MODELS


def loss(
    model: nnx.Module, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the label; a little noise on the pixels against learning them by heart."""
    del frozen
    images = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    log_p = jax.nn.log_softmax(model(images))
    nll = -jnp.take_along_axis(log_p, batch["label"][:, None], axis=-1)
    accuracy = jnp.mean(log_p.argmax(-1) == batch["label"])
    return jnp.mean(nll), {"accuracy": accuracy}


def train_classifier(
    name: str, directory: Path, section: Model, images: data.Arrays, seed: int
) -> nnx.Module:
    """The classifier of a folder, trained if it is not there; the name is part of its seed."""
    cls = MODELS[section.kind]
    return train.train(
        name=name,
        directory=directory,
        kind=section.kind,
        init=lambda: cls(section.model, rngs=nnx.Rngs(keys.stream(seed, f"{name}.init"))),
        loss=loss,
        frozen=None,
        batches=data.batches(images, section.train.batch, seed),
        key=keys.stream(seed, name),
        config=section.train,
    )

"""Feature nets, in which images are compared: for the evaluation and for the perceptual loss."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.config.schema import Config, ModelSection
from ddjax.models import MODELS
from ddjax.stages import images
from ddjax.storage import run_models
from ddjax.training import loop


def loss(
    model: nnx.Module, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the label; a little noise on the pixels against overfitting.

    Args:
      model: being trained.
      frozen: nothing.
      batch: "image" [B, H, W, channels] and "label" [B].
      key: of the noise.

    Returns:
      The loss, a scalar, and other scalars by name.
    """
    del frozen
    noisy = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    log_p = jax.nn.log_softmax(model(noisy))
    nll = -jnp.take_along_axis(log_p, batch["label"][:, None], axis=-1)
    accuracy = jnp.mean(log_p.argmax(-1) == batch["label"])
    return jnp.mean(nll), {"accuracy": accuracy}


def load(
    name: str, where: str, directory: Path, section: ModelSection, config: Config
) -> nnx.Module:
    """The net of a section: its weights, or a classifier trained into the folder.

    Args:
      name: on the progress bar; part of the seed.
      where: the key of the section.
      directory: of the training, in that of a stage.
      section: of the config.
      config: whose images it is trained on.
    """
    if section.weights:
        return run_models.load_model(section, f"{where}.weights", directory / "model")
    cls = MODELS[section.kind]
    return loop.train(
        name=name,
        directory=directory,
        kind=section.kind,
        init=lambda rngs: cls(section.model, rngs=rngs),
        loss=loss,
        frozen=None,
        source=images.opened(config, directory.parent.parent),
        seed=config.seed,
        config=section.train,
        restore=config.restore,
    )

"""Feature nets, in which images are compared: for the evaluation and for the perceptual loss."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.config import reading
from ddjax.config.schema import TURNS, Config, ModelSection
from ddjax.models import MODELS
from ddjax.stages import images, registry, running
from ddjax.storage import model_folder, run_models
from ddjax.storage.workdir import Folder
from ddjax.training import loop

# Where the net of the evaluation is trained, from the workdir.
FOLDER = "feature_net"


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


def loss_of_turns(
    model: nnx.Module, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """As `loss`, of images without classes: which quarter turn each of them was given.

    The features that tell are of what images show (arXiv 1803.07728).
    """
    key, turn_key = jax.random.split(key)
    images_BHWC = batch["image"]
    turn_B = jax.random.randint(turn_key, images_BHWC.shape[:1], 0, TURNS)
    turned = jnp.stack([jnp.rot90(images_BHWC, turn, axes=(1, 2)) for turn in range(TURNS)])
    seen = {"image": turned[turn_B, jnp.arange(len(turn_B))], "label": turn_B}
    return loss(model, frozen, seen, key)


def load(
    name: str, where: str, root: Path, folder: str, section: ModelSection, config: Config
) -> nnx.Module:
    """The net of a section: its weights, or a classifier trained into the folder.

    Args:
      name: on the progress bar; part of the seed.
      where: the key of the section.
      root: the workdir.
      folder: of the training, in it.
      section: of the config.
      config: whose images it is trained on.
    """
    directory = root / folder
    if section.weights:
        return run_models.load_model(section, f"{where}.weights", directory / "model")
    cls = MODELS[section.kind]
    return loop.train(
        name=name,
        directory=directory,
        kind=section.kind,
        init=lambda rngs: cls(section.model, rngs=rngs),
        loss=loss_of_turns if config.data.num_classes == 1 else loss,
        frozen=None,
        source=images.opened(config, root),
        seed=config.seed,
        config=section.train,
        restore=config.restore,
    )


def for_evaluation(config: Config, root: Path) -> nnx.Module:
    """The net in whose features samples are compared, trained when it is first needed.

    Args:
      config: of the run.
      root: the workdir.

    Raises:
      UserError: it was trained by other settings, or is damaged.
    """
    section = config.evaluate.features

    def make() -> str:
        load("classifier", "evaluate.features", root, FOLDER, section, config)
        return f"{section.train.steps} steps on {config.data.name}"

    if not section.weights:
        own = Folder(root / FOLDER, settings(config), registry.MODEL)
        own.begin(reading.plain(config))
        running.make_once(own, "features", {}, make)
    return load("classifier", "evaluate.features", root, FOLDER, section, config)


def settings(config: Config) -> dict[str, Any]:
    """The keys and values that decide the net of the evaluation."""
    section = config.evaluate.features
    if section.weights:
        return {"weights": section.weights}
    return running.section_settings(config, ("data", "evaluate.features"))


def digest_for_evaluation(config: Config, root: Path) -> str:
    """Digest of the weights of that net."""
    section = config.evaluate.features
    if section.weights:
        return run_models.check_weights("config.evaluate.features.weights", section)
    return model_folder.saved_digest(root / FOLDER)

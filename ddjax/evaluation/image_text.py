"""Image-text net: cosines between images and their captions, in the space of CLIP."""

from collections.abc import Sequence
from pathlib import Path

import jax

from ddjax.config.schema import ClipSection
from ddjax.data.byte_pairs import BytePairs
from ddjax.evaluation import pixels
from ddjax.method.protocols import ImageTextNet
from ddjax.runtime import sharding
from ddjax.storage import run_models


class ImageText:
    """CLIP with its vocabulary.

    Args:
      section: of the config.

    Raises:
      UserError: model or vocabulary is missing or damaged.
    """

    def __init__(self, section: ClipSection) -> None:
        sizes = section.model
        self._pieces = BytePairs.read(Path(section.vocabulary), sizes.vocab_size)
        self._net = run_models.load_model(section, "config.evaluate.clip.weights", Path())
        self._tokens = sizes.text_tokens

    def cosines(self, levels_BHWC: jax.Array, texts: Sequence[str], size: int) -> jax.Array:
        """Cosines [B] between images and texts one by one, float32.

        Args:
          levels_BHWC: uint8 images in colour, over all devices.
          texts: of the rows of this process.
          size: B.
        """
        ids = sharding.shard_batch(self._pieces(texts, self._tokens).ids_NT, size)
        return _cosines(self._net, levels_BHWC, ids)


@jax.jit
def _cosines(net: ImageTextNet, levels_BHWC: jax.Array, ids_BT: jax.Array) -> jax.Array:
    def share(net: ImageTextNet, levels_BHWC: jax.Array, ids_BT: jax.Array) -> jax.Array:
        images_BE = net.embed_images(pixels.of_levels(levels_BHWC))
        return (images_BE * net.embed_texts(ids_BT)).sum(-1)

    return sharding.per_device(share, replicated=1)(net, levels_BHWC, ids_BT)

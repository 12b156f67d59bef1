"""Measuring: images through a feature net, on all devices, every device its share of the rows."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.data.sources import Source
from ddjax.evaluation import pixels
from ddjax.evaluation.collecting import Dispatched, collect
from ddjax.evaluation.network import Network
from ddjax.evaluation.set_folder import SetFolder
from ddjax.evaluation.statistics import Observed
from ddjax.method.protocols import FeatureNet, Features
from ddjax.method.sampling import check_finite
from ddjax.runtime import progress, sharding
from ddjax.runtime.errors import UserError


class Seen(NamedTuple):
    """What a net sees of a batch.

    Attributes:
      levels_BHWC: the images as they are measured, uint8.
      features: of the net.
      class_B: that the net sees; None where it does not classify.
      finite_B: whether image and features are.
    """

    levels_BHWC: jax.Array
    features: Features
    class_B: jax.Array | None
    finite_B: jax.Array


@jax.jit
def see(net: FeatureNet, images: jax.Array) -> Seen:
    """Measure images [B, H, W, channels] in [-1, 1], rounded to 8 bits; or uint8 as they are."""
    return sharding.per_device(_see, replicated=1)(net, images)


def _see(net: FeatureNet, images: jax.Array) -> Seen:
    levels = images if images.dtype == jnp.uint8 else pixels.to_levels(images)
    colour = getattr(net.config, "image_channels", 3)  # grey is repeated for nets of colour
    shown = jnp.broadcast_to(levels, (*levels.shape[:3], max(colour, levels.shape[3])))
    features = net.measure(pixels.of_levels(shown))
    classes = features.logits_BK.argmax(-1) if net.num_classes else None
    finite = [jnp.isfinite(x).reshape(len(x), -1).all(1) for x in (images, features.pooled_BF)]
    return Seen(levels, features, classes, finite[0] & finite[1])


def observed(
    seen: Seen, name: str, first: int, size: int, total: int, **others: Any
) -> Observed:
    """The share of a batch on this process' host, without the rows behind the end of the set.

    Args:
      seen: of the batch.
      name: of what made the images.
      first: number of its first image in the set.
      size: of the batch, over all devices.
      total: images in the set.
      others: further fields of `Observed`, for the rows of this process, on the host.

    Raises:
      UserError: an image, or what the net makes of it, is not finite.
    """
    local = sharding.local_rows(size)
    index = first + local
    here = index < total
    levels, features, classes, finite = jax.tree.map(sharding.local_to_host, seen)
    good = np.ones(size)
    good[local] = np.where(finite, 1, np.nan)
    check_finite(name, good, first)
    fields = {"index_B": index, "levels_BHWC": levels, "features": features, "class_B": classes}
    fields = jax.tree.map(lambda rows: np.asarray(rows)[here], {**fields, **others})
    return Observed(**fields)


class Measure:
    """A feature net with what it takes to measure sets of images.

    Args:
      net: of the features.
      network: its name.
      batch: images at once on each device.
      save_every: batches between saves.
    """

    def __init__(self, net: FeatureNet, network: Network, batch: int, save_every: int) -> None:
        self.net, self.network, self.save_every = net, network, save_every
        self.batch = batch * sharding.devices()
        # Nets of any size and number of channels have neither key.
        self._side = getattr(net.config, "image_size", None)
        self._channels = getattr(net.config, "image_channels", 3)

    @property
    def width(self) -> int:
        """F, of the pooled features."""
        side = self._side or 299
        image = jax.ShapeDtypeStruct((1, side, side, self._channels), jnp.float32)
        return jax.eval_shape(lambda net, x: net.measure(x), self.net, image).pooled_BF.shape[1]

    def images(
        self,
        folder: SetFolder,
        name: str,
        source: Source,
        change: Callable[[jax.Array], jax.Array] = lambda images: images,
    ) -> None:
        """Make the statistics of a source's images, unless they are there.

        Args:
          folder: of the set.
          name: on the progress bar.
          source: gives "image", float in [-1, 1] or uint8, and fields of `Observed` or nothing.
          change: is done to images on the devices before they are measured.

        Raises:
          UserError: the net does not take images of this size, or they cannot be read.
        """

        def dispatch(first: int, timed: bool) -> Dispatched:
            del timed
            rows = np.minimum(first + sharding.local_rows(self.batch), folder.total - 1)
            found = source.take(rows)
            images = self._fitting(found.pop("image"), name)
            seen = see(self.net, change(sharding.shard_batch(images, self.batch)))
            return Dispatched((seen, found))

        def fetch(first: int, value: Any) -> Observed:
            seen, others = value
            return observed(seen, name, first, self.batch, folder.total, **others)

        collect(folder, name, batch=self.batch, dispatch=dispatch, fetch=fetch,
                save_every=self.save_every)

    def features(self, source: Source, name: str) -> Iterator[np.ndarray]:
        """Pooled features [n, F] of a source's images, batch by batch, on every process.

        Args:
          source: as of `images`.
          name: on the progress bar.
        """
        starts = range(0, len(source), self.batch)
        for first in progress.bar(starts, name, len(starts)):
            rows = np.minimum(first + sharding.local_rows(self.batch), len(source) - 1)
            images = self._fitting(source.take(rows)["image"], name)
            seen = see(self.net, sharding.shard_batch(images, self.batch))
            yield sharding.to_host(seen.features.pooled_BF)[: len(source) - first]

    def _fitting(self, images: np.ndarray, name: str) -> np.ndarray:
        side, channels = images.shape[1:3], images.shape[3]
        if self._side is not None and side != (self._side, self._side):
            raise UserError(
                f"{name}: the images are {side[1]} x {side[0]} pixels, and this "
                f"{self.network.kind} takes {self._side} x {self._side} alone"
            )
        if channels > self._channels:
            grey = (images == images[..., :1]).all()
            if not grey:
                raise UserError(f"{name}: the images are in colour, this net takes grey ones alone")
            return images[..., :1]
        return images

"""Classifier of small images: its features serve the Fréchet distance and the perceptual loss.

It takes the place that Inception and LPIPS have for photographs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.codes import unit
from ddjax.method.protocols import Features
from ddjax.runtime.layout import ParameterLayout


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Sizes: two strided convolutions of `channels` and twice as many, then `features` wide."""

    image_size: int
    image_channels: int
    num_classes: int
    channels: int = 32
    features: int = 64

    def __post_init__(self) -> None:
        if self.image_size % 4:
            raise ValueError(f"image_size {self.image_size} is not a multiple of 4")


class Classifier(nnx.Module):
    """A convolutional net on images [B, H, W, channels] in [-1, 1]: a `FeatureNet` with classes."""

    Config = ClassifierConfig
    layout = ParameterLayout()
    published = None

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.config = c
        self.conv1 = nnx.Conv(c.image_channels, c.channels, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(c.channels, c.channels, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(c.channels, 2 * c.channels, (3, 3), strides=2, rngs=rngs)
        flat = (c.image_size // 4) ** 2 * 2 * c.channels
        self.dense = nnx.Linear(flat, c.features, rngs=rngs)
        self.head = nnx.Linear(c.features, c.num_classes, rngs=rngs)

    @property
    def num_classes(self) -> int:
        """The config's."""
        return self.config.num_classes

    def maps(self, images: jax.Array) -> list[jax.Array]:
        """The feature maps [B, h, w, width] of the three convolutions."""
        maps = [jax.nn.gelu(self.conv1(images))]
        for layer in (self.conv2, self.conv3):
            maps.append(jax.nn.gelu(layer(maps[-1])))
        return maps

    def features(self, images: jax.Array) -> jax.Array:
        """Features [B, F] of the last hidden layer."""
        last = self.maps(images)[-1]
        return jax.nn.gelu(self.dense(last.reshape(last.shape[0], -1)))

    def measure(self, images: jax.Array) -> Features:
        """Features and logits."""
        features = self.features(images)
        return Features(features, logits_BK=self.head(features))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, num_classes]."""
        return self.head(self.features(images))

    def distance(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Perceptual distance [B] between images, in the manner of LPIPS.

        Squared distance of the feature maps, each position's channels scaled to norm 1, averaged
        over positions and summed over layers (arXiv 1801.03924, equation 1, without weights).
        """
        pairs = zip(self.maps(a), self.maps(b), strict=True)
        return sum(
            jnp.mean(jnp.sum((unit(fa) - unit(fb)) ** 2, axis=-1), axis=(1, 2)) for fa, fb in pairs
        )

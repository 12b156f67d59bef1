"""LPIPS: perceptual distance in the features of VGG-16 (arXiv 1801.03924).

The backbone is torchvision's, the weights of the distances are those of github.com/richzhang/
PerceptualSimilarity, version 0.1, with its scaling of the input.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.protocols import Features
from ddjax.models.published import PublishedWeights
from ddjax.runtime.layout import ParameterLayout

# Mean and standard deviation of ImageNet's colours, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """Sizes; the defaults are those of VGG-16.

    Attributes:
      channels: of the convolutions at each of the five resolutions.
      convolutions: how many there are at each.
      dtype: of the convolutions; parameters and the distance are float32.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)
    dtype: str = "float32"


class VGGLevel(nnx.Module):
    """The convolutions of one resolution, each with a ReLU: [B, h, w, inner] -> [B, h, w, outer].

    Args:
      inner: channels of the input.
      outer: channels of each convolution.
      count: number of convolutions.
      dtype: of the computation.
      rngs: of the initial weights.
    """

    def __init__(
        self, inner: int, outer: int, count: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        widths = [inner] + [outer] * (count - 1)
        self.convs = nnx.List(
            [nnx.Conv(width, outer, (3, 3), dtype=dtype, rngs=rngs) for width in widths]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x


class LPIPS(nnx.Module):
    """VGG-16 with a weight for each channel of its feature maps: a `FeatureNet` without classes."""

    Config = LPIPSConfig
    layout = ParameterLayout()
    num_classes = 0
    published = PublishedWeights("pth", flags=("--linear=vgg.pth",))

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.config = c
        sizes = zip((3, *c.channels), c.channels, c.convolutions, strict=False)
        self.levels = nnx.List([VGGLevel(*size, dtype, rngs) for size in sizes])
        self.weights = nnx.List([nnx.Param(jnp.ones((width,)) / width) for width in c.channels])

    def maps(self, images: jax.Array) -> list[jax.Array]:
        """The last feature maps [B, h, w, width] of each resolution, float32."""
        shift, scale = (jnp.array(x).reshape(1, 1, 1, 3) for x in (_SHIFT, _SCALE))
        h, maps = (images - shift) / scale, []
        for i, level in enumerate(self.levels):
            h = level(nnx.max_pool(h, (2, 2), (2, 2)) if i else h)
            maps.append(h.astype(jnp.float32))
        return maps

    def features(self, images: jax.Array) -> jax.Array:
        """Features [B, F]: the maps of the lowest resolution, averaged over positions."""
        return jnp.mean(self.maps(images)[-1], axis=(1, 2))

    def measure(self, images: jax.Array) -> Features:
        """Features alone."""
        return Features(self.features(images))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, 0]: VGG-16's own classifier is left out."""
        return jnp.zeros((len(images), 0))

    def distance(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Distance [B] between images [B, H, W, 3] in [-1, 1]; 0 for equal ones."""
        total = jnp.zeros(a.shape[0])
        for one, other, weight in zip(self.maps(a), self.maps(b), self.weights, strict=True):
            difference = (_unit(one) - _unit(other)) ** 2
            total += jnp.mean(difference @ weight[...], axis=(1, 2))
        return total


def _unit(x: jax.Array) -> jax.Array:
    """Vectors of norm 1 along the last axis; the original adds its epsilon to the norm."""
    # Where the norm is 0 its gradient must be 0 too, not NaN.
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / (norm + 1e-10)

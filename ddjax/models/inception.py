"""Inception-v3 of 2015: the features of FID, sFID, the Inception score, precision and recall.

The weights are those of pytorch-fid and torch-fidelity, which came from TensorFlow's graph
classify_image_graph_def.pb; torchvision's Inception-v3 is another network.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.method.codes import unit
from ddjax.method.protocols import Features
from ddjax.models.inception_blocks import (
    NETWORK,
    Branches,
    MaxPool,
    MeanPool,
    Path,
    Unit,
    units,
    width,
)
from ddjax.models.inception_layers import ConvUnit, max_pool, mean_pool
from ddjax.models.published import PublishedWeights
from ddjax.models.resize import HIGHEST, bilinear_matrix, resize
from ddjax.runtime.layout import ParameterLayout

SIDE, CLASSES = 299, 1008

# How images are brought to 299 x 299, with the tools that do it so.
RESIZES = {
    "tf1": "as ADM's evaluator and torch-fidelity",
    "half_pixel": "as pytorch-fid",
}

# sFID reads some channels of this unit, with their positions.
SPATIAL_UNIT, SPATIAL_CHANNELS = "Mixed_6d.branch1x1", 7


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """How the network is used.

    Attributes:
      resize: of `RESIZES`, both bilinear without antialiasing: "tf1" reads pixel i at
        i * size / 299 and centres levels 0..255 at 128; "half_pixel" takes pixels as areas and
        centres levels at 127.5.
      dtype: of the convolutions; parameters and features are float32.
      divisor: of all channels, for small networks in tests.
    """

    resize: str = "tf1"
    dtype: str = "float32"
    divisor: int = 1

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize {self.resize!r} is none of {', '.join(RESIZES)}")
        if self.divisor not in (1, 2, 4, 8, 16):
            raise ValueError(f"divisor {self.divisor} is not 1, 2, 4, 8 or 16")


class Inception(nnx.Module):
    """A `FeatureNet` without classes of a run: its 1008 are its own.

    Images are [B, H, W, 3], or grey [B, H, W, 1], in [-1, 1] and of any size. Figures that compare
    with others' want them rounded to the 256 levels of a file.
    """

    Config = InceptionConfig
    layout = ParameterLayout()
    num_classes = 0
    published = PublishedWeights("pth")

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs) -> None:
        c, dtype = config, jnp.dtype(config.dtype)
        self.config = c
        self.units = nnx.Dict({
            spec.name: ConvUnit(
                spec, inner if inner == 3 else inner // c.divisor, spec.channels // c.divisor,
                dtype, rngs,
            )
            for spec, inner in units(NETWORK, 3)
        })
        self.fc = nnx.Linear(width(NETWORK, 3) // c.divisor, CLASSES, rngs=rngs)

    def inputs(self, images: jax.Array) -> jax.Array:
        """What the first convolution reads, [B, 299, 299, 3] float32."""
        images = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
        half_pixel = self.config.resize == "half_pixel"
        rows, columns = (
            bilinear_matrix(size, SIDE, half_pixel=half_pixel) for size in images.shape[1:3]
        )
        x = resize(images, rows, columns)
        # Rows of the matrices sum to 1, so that levels may be shifted after resizing:
        # (level - 128) / 128 with level = (x + 1) * 127.5.
        return x if half_pixel else (127.5 * x - 0.5) / 128

    def measure(self, images: jax.Array) -> Features:
        """All three: pooled [B, 2048], spatial [B, 2023], logits [B, 1008] without their bias."""
        seen: dict[str, jax.Array] = {}
        last = self._run(NETWORK, self.inputs(images), seen)
        pooled = jnp.mean(last.astype(jnp.float32), axis=(1, 2))
        spatial = seen[SPATIAL_UNIT][..., :SPATIAL_CHANNELS].astype(jnp.float32)
        logits = jnp.matmul(pooled, self.fc.kernel[...], precision=HIGHEST)
        return Features(pooled, spatial.reshape(len(spatial), -1), logits)

    def _run(self, path: Path, x: jax.Array, seen: dict[str, jax.Array]) -> jax.Array:
        """The output of a path; `seen` gets those of its units, by their names."""
        for layer in path:
            match layer:
                case Unit():
                    x = seen[layer.name] = self.units[layer.name](x)
                case Branches(paths):
                    x = jnp.concatenate([self._run(p, x, seen) for p in paths], axis=-1)
                case MaxPool(stride):
                    x = max_pool(x, stride)
                case MeanPool():
                    x = mean_pool(x)
        return x

    def features(self, images: jax.Array) -> jax.Array:
        """Features [B, 2048]: the last map, averaged over positions."""
        return self.measure(images).pooled_BF

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, 0]."""
        return jnp.zeros((len(images), 0))

    def distance(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Squared distance [B] of the features, each scaled to norm 1."""
        # One after the other by the same program, so that equal images are at distance 0.
        one, other = unit(jax.lax.map(self.features, jnp.stack([a, b])))
        return jnp.sum((one - other) ** 2, axis=-1)

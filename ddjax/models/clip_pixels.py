"""Image preprocessing of CLIP: resize, centre crop and normalisation, to the bit as Pillow's.

github.com/openai/CLIP takes 8-bit images through torchvision's Resize(n, BICUBIC), CenterCrop(n)
and Normalize. Here the same happens on the device: values are rounded to the 256 levels that an
image file has; the shorter side becomes n pixels by cubic convolution (a = -1/2), widened where
the image shrinks, first along rows and then along columns, each with Pillow's weights of 22 bits
and its rounding to levels. (Pillow 13 takes the columns of tall images first, earlier ones those
of images 100 times as tall as wide; here it is rows first for all, as for square ones there.)
"""

import jax
import jax.numpy as jnp
import numpy as np

# Mean and standard deviation of the colours of CLIP's training images, in [0, 1].
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Bits of a weight behind the point, and how many of them make its lower part.
_BITS, _LOW = 22, 11


def clip_pixels(images: jax.Array, resolution: int) -> jax.Array:
    """What the image tower reads: [B, resolution, resolution, 3], float32, of mean about 0.

    Args:
      images: [B, H, W, 3] in [-1, 1]; beyond that they are clamped.
      resolution: pixels a side.
    """
    levels = jnp.clip(jnp.round((images.astype(jnp.float32) + 1) * 127.5), 0, 255)
    mean, deviation = (jnp.array(x).reshape(1, 1, 1, 3) for x in (MEAN, DEVIATION))
    return (resized(levels, resolution) / 255 - mean) / deviation


def resized(levels: jax.Array, side: int) -> jax.Array:
    """The middle square [B, side, side, 3] of images whose shorter side is made `side` pixels.

    Args:
      levels: [B, H, W, 3], whole numbers in 0..255, float32.
      side: in pixels.

    Returns:
      whole numbers in 0..255, float32.
    """
    _, height, width, _ = levels.shape
    shorter = min(height, width)
    levels = _weighted("ow,bhwc->bhoc", _weights(width, shorter, side), levels)
    return _weighted("oh,bhwc->bowc", _weights(height, shorter, side), levels)


def _weights(length: int, shorter: int, side: int) -> np.ndarray:
    """Whole numbers [side, length]: weight times 2^22 of each pixel of a line in each new one."""
    new = length * side // shorter  # torchvision rounds the longer side down
    scale = length / new
    widened = max(scale, 1)
    middles = (np.arange(new) + 0.5)[:, None] * scale
    weights = _cubic((np.arange(length)[None] + 0.5 - middles) / widened)
    fixed = weights / weights.sum(axis=1, keepdims=True) * 2**_BITS
    first = round((new - side) / 2)
    return np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int64)[first : first + side]


def _cubic(x: np.ndarray) -> np.ndarray:
    """The kernel of cubic convolution with a = -1/2 (Keys 1981, equation 15)."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _weighted(axes: str, weights: np.ndarray, levels: jax.Array) -> jax.Array:
    """Sums of levels times weights, rounded as Pillow does, halves up, and clamped to levels."""
    # In two parts float32 holds all products and sums exactly; together they are for int32.
    high, low = (
        jnp.einsum(
            axes, part.astype(np.float32), levels, precision=jax.lax.Precision.HIGHEST
        ).astype(jnp.int32)
        for part in np.divmod(weights, 2**_LOW)
    )
    whole = (high * 2**_LOW + low + 2 ** (_BITS - 1)) >> _BITS
    return jnp.clip(whole, 0, 255).astype(jnp.float32)

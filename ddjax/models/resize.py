"""Resizing of images by a matrix along each axis: bilinear, bicubic, area; as other libraries do.

`jax.image.resize` antialiases where it shrinks, and its bicubic kernel is another, so that neither
published weights nor published figures go with it.
"""

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = jax.lax.Precision.HIGHEST


def resize(
    images_BHWC: jax.Array, rows: np.ndarray, columns: np.ndarray | None = None
) -> jax.Array:
    """Images [B, h, w, C], float32, of rows [h, H] and columns [w, W]; without these, the rows'."""
    columns = rows if columns is None else columns
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, images_BHWC, precision=HIGHEST)


def bilinear_matrix(size: int, wanted: int, *, half_pixel: bool) -> np.ndarray:
    """[wanted, size] float32: bilinear interpolation along one axis, without antialiasing.

    Args:
      size: pixels there are.
      wanted: pixels there will be.
      half_pixel: whether pixels are areas, as for PyTorch (align_corners False) and TensorFlow 2;
        otherwise pixel i is read at i * size / wanted, as TensorFlow 1 did by default.
    """
    shift = 0.5 if half_pixel else 0.0
    place = np.clip((np.arange(wanted) + shift) * size / wanted - shift, 0, size - 1)
    low = np.floor(place).astype(int)
    weight = place - low
    matrix, rows = np.zeros((wanted, size)), np.arange(wanted)
    np.add.at(matrix, (rows, low), 1 - weight)
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), weight)
    return matrix.astype(np.float32)


def bicubic_matrix(size: int, wanted: int) -> np.ndarray:
    """[wanted, size] float32: PyTorch's bicubic interpolation along one axis.

    Pixels are areas (align_corners False), A = -0.75, edges repeat, no antialiasing;
    `jax.image.resize` has A = -0.5.
    """
    a = -0.75
    centre = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    taps = np.floor(centre)[:, None] + np.arange(-1, 3)
    d = np.abs(centre[:, None] - taps)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    matrix = np.zeros((wanted, size))
    rows = np.broadcast_to(np.arange(wanted)[:, None], taps.shape)
    columns = np.clip(taps, 0, size - 1).astype(int)
    np.add.at(matrix, (rows, columns), np.where(d <= 1, near, far))
    return matrix.astype(np.float32)


def area_matrix(size: int, wanted: int) -> np.ndarray:
    """[wanted, size] float32: means over bins that cover the axis (adaptive average pooling).

    Bin i is floor(i size / wanted) .. ceil((i + 1) size / wanted) - 1, so that bins overlap where
    the sizes do not divide.
    """
    i, j = np.arange(wanted)[:, None], np.arange(size)[None]
    inside = (j >= i * size // wanted) & (j < -(-(i + 1) * size // wanted))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)

"""CLIP's preprocessing against Pillow, as torchvision calls it."""

import jax
import numpy as np
import pytest
from PIL import Image

from ddjax.models.clip_pixels import DEVIATION, MEAN, clip_pixels, resized


def by_pillow(levels, side):
    """torchvision's Resize(side, BICUBIC) and CenterCrop(side), in whole numbers."""
    height, width, _ = levels.shape
    shorter = min(height, width)
    new_width, new_height = int(side * width / shorter), int(side * height / shorter)
    image = Image.fromarray(levels).resize((new_width, new_height), Image.BICUBIC)
    top, left = round((new_height - side) / 2.0), round((new_width - side) / 2.0)
    return np.asarray(image.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize(("height", "width", "side"), [
    (8, 8, 224), (32, 32, 224), (112, 112, 224), (224, 224, 224), (256, 256, 224),
    (512, 512, 224), (1024, 1024, 224), (384, 384, 336), (7, 9, 20), (201, 467, 50), (96, 64, 37),
])
def test_levels_are_exactly_those_of_pillow(height, width, side):
    """Up and down: noise, whose sums leave 0..255, and a smooth picture."""
    rng = np.random.default_rng(height + width)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.BICUBIC))
    both = np.stack([noise, smooth])
    found = jax.jit(resized, static_argnums=1)(both.astype(np.float32), side)
    np.testing.assert_array_equal(found, [by_pillow(image, side) for image in both])


def test_tall_images_go_through_rows_first():
    """Where Pillow itself may begin with the columns, it is made to take both in turn."""
    levels = np.random.default_rng(0).integers(0, 256, (90, 20, 3), dtype=np.uint8)
    rows = Image.fromarray(levels).resize((10, 90), Image.BICUBIC)
    wanted = np.asarray(rows.resize((10, 45), Image.BICUBIC))[18:28]  # half of 35, to even
    found = resized(levels[None].astype(np.float32), 10)[0]
    np.testing.assert_array_equal(found, wanted)


def test_values_are_rounded_to_levels_and_normalised():
    """By hand: black, white, beyond both, and a value just below and above half a level."""
    grey = [-1.0, 1.0, -3.0, 3.0, (127.49 / 127.5) - 1, (127.51 / 127.5) - 1]
    images = np.broadcast_to(np.array(grey, np.float32)[:, None, None, None], (6, 4, 4, 3))
    found = np.asarray(clip_pixels(images, 2))
    levels = np.array([0, 255, 0, 255, 127, 128])[:, None, None, None]
    wanted = np.broadcast_to((levels / 255 - np.array(MEAN)) / np.array(DEVIATION), (6, 2, 2, 3))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_levels_of_8_bits_come_back():
    """As they stand in [-1, 1], none is taken for its neighbour."""
    levels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, axis=3)
    found = np.asarray(clip_pixels(levels / 127.5 - 1, 16)) * np.array(DEVIATION) + np.array(MEAN)
    np.testing.assert_allclose(255 * found, levels, atol=1e-3)

"""8-bit levels of images, as torchvision's `save_image` writes them."""

import numpy as np
import torch

from ddjax.evaluation.pixels import of_levels, to_levels


def test_levels_are_those_of_a_saved_image():
    """Rounded to the nearest, halves up, and clamped."""
    images = np.concatenate([np.linspace(-1.2, 1.2, 1001), np.arange(-127, 128) / 127.5])
    images = images.astype(np.float32)
    unit = torch.tensor(images.astype("f8") + 1) / 2
    wanted = unit.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).numpy()
    found = np.asarray(to_levels(images))
    # In float32 a half may fall on either side.
    halves = np.abs(unit.numpy() * 255 % 1 - 0.5) < 1e-4
    np.testing.assert_array_equal(found[~halves], wanted[~halves])
    assert np.abs(found.astype(int) - wanted)[halves].max(initial=0) <= 1 and halves.mean() < 0.3


def test_levels_stay_when_images_are_read_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_levels(of_levels(levels)), levels)

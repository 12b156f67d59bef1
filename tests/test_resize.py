"""Resizing against loops written from the definition, and against what it must not do."""

import jax
import numpy as np
import pytest

from ddjax.models.resize import bilinear_matrix, resize
from tests.inception_torch import bilinear

SIZES = [
    ((5, 8), (13, 11)), ((9, 7), (4, 3)), ((6, 6), (6, 6)), ((1, 2), (5, 5)), ((26, 3), (23, 9)),
]


def resized(images, size, half_pixel):
    return resize(images, *(
        bilinear_matrix(old, new, half_pixel=half_pixel)
        for old, new in zip(images.shape[1:3], size, strict=True)
    ))


def pixels(height, width):
    return np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bilinear_is_the_definition(size, wanted, half_pixel):
    images = pixels(*size)
    found = resized(images, wanted, half_pixel)
    assert found.shape == (2, *wanted, 3)
    np.testing.assert_allclose(found, bilinear(images, *wanted, half_pixel), atol=1e-4)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_half_pixels_are_those_of_jax_without_antialiasing(size, wanted):
    images = pixels(*size)
    theirs = jax.image.resize(images, (2, *wanted, 3), "linear", antialias=False)
    np.testing.assert_allclose(resized(images, wanted, True), theirs, atol=1e-3)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_shrinking_skips_pixels(half_pixel):
    """An antialiased one would read the bright pixel, which lies between those that are read."""
    images = np.zeros((1, 12, 1, 1), np.float32)
    images[0, 4] = 1
    assert not resized(images, (2, 1), half_pixel).any()
    assert jax.image.resize(images, (1, 2, 1, 1), "linear").any()


def test_the_two_kinds_of_pixels_differ():
    images = pixels(8, 8)
    moved = np.abs(resized(images, (12, 12), False) - resized(images, (12, 12), True))
    assert moved.max() > 20

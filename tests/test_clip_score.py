"""The CLIP score against values by hand."""

import numpy as np
import pytest

from ddjax.evaluation.clip_score import clip_score


def at(*degrees):
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_it_is_the_mean_cosine_times_a_hundred():
    assert clip_score(at(0, 10, 20), at(60, 70, -40)) == pytest.approx(50, abs=1e-4)
    assert clip_score(at(0, 10), at(0, 100)) == pytest.approx(50, abs=1e-4)


def test_a_pair_that_points_apart_counts_as_nothing():
    """It is not taken from the others' score."""
    assert clip_score(at(0, 0), at(0, 180)) == pytest.approx(50, abs=1e-4)
    assert clip_score(at(0), at(135)) == 0


def test_each_image_is_compared_with_its_own_text():
    images, texts = at(0, 90), at(0, 90)
    assert clip_score(images, texts) == pytest.approx(100, abs=1e-4)
    assert clip_score(images, texts[::-1]) == pytest.approx(0, abs=1e-4)


def test_many_pairs_lose_nothing():
    """In float32 the sum of so many would stop growing."""
    images = np.broadcast_to(np.float32([1, 0]), (2**22, 2))
    texts = np.broadcast_to(np.float32([0.3, 0]), (2**22, 2))
    assert clip_score(images, texts) == pytest.approx(100 * np.float32(0.3), rel=1e-12)


def test_sets_of_other_sizes_are_refused():
    with pytest.raises(ValueError):
        clip_score(at(0, 10), at(0, 10, 20))

"""Statistics that are summed batch by batch: the same as of all rows at once, however they come."""

import numpy as np
import pytest
import scipy.special

from ddjax.evaluation import moments
from ddjax.evaluation.inception_score import SplitDistributions
from ddjax.evaluation.moments import Moments


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 16)


def rows(count=100, width=5, mean=0.0):
    rng = np.random.default_rng(0)
    return (mean + rng.normal(size=(count, width)) @ rng.normal(size=(width, width))).astype("f4")


def added(parts):
    made = Moments(parts[0].shape[1])
    for part in parts:
        made.add(part)
    return made


@pytest.mark.parametrize("mean", [0.0, 3e4])
def test_mean_and_covariance_are_numpys(small_blocks, mean):
    """Sums of squares would lose the covariance where the mean is large."""
    all_rows = rows(mean=mean)
    found = added(np.array_split(all_rows, 9)).gaussian
    exact = all_rows.astype(np.float64)
    np.testing.assert_allclose(found.mean_F, exact.mean(0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.cov_FF, np.cov(exact, rowvar=False), rtol=1e-11, atol=1e-11)


def test_batches_change_nothing_to_the_last_bit(small_blocks):
    """So that an evaluation with other batches, or one that was stopped, has the same numbers."""
    all_rows = rows()
    wanted = added([all_rows]).gaussian
    for cuts in ([1, 2, 3], [16, 32], [50], range(1, 100)):
        found = added(np.split(all_rows, cuts)).gaussian
        np.testing.assert_array_equal(found.mean_F, wanted.mean_F)
        np.testing.assert_array_equal(found.cov_FF, wanted.cov_FF)


def test_what_is_kept_goes_on_to_the_last_bit(small_blocks):
    all_rows = rows()
    first = added([all_rows[:37]])
    again = Moments.of_arrays({name: x.copy() for name, x in first.arrays().items()})
    again.add(all_rows[37:])
    np.testing.assert_array_equal(again.gaussian.cov_FF, added([all_rows]).gaussian.cov_FF)


def test_parts_of_two_processes_are_merged(small_blocks):
    all_rows = rows(mean=100.0)
    one, other = added([all_rows[::2]]), added([all_rows[1::2]])
    one.merge(other)
    assert one.count == 100
    np.testing.assert_allclose(one.gaussian.cov_FF, added([all_rows]).gaussian.cov_FF, rtol=1e-10)
    np.testing.assert_allclose(one.gaussian.mean_F, all_rows.mean(0, dtype="f8"), rtol=1e-13)


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 rows, not 1"):
        added([rows(1)]).gaussian  # noqa: B018


def slow_score(logits, splits):
    """exp of the mean divergence, as ADM's evaluator has it, split after split."""
    scores = []
    for part in np.array_split(scipy.special.softmax(logits.astype("f8"), axis=1), splits):
        divergence = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return np.mean(scores)


def test_inception_score_against_a_slow_one():
    logits = 3 * np.random.default_rng(1).normal(size=(200, 7)).astype("f4")
    made = SplitDistributions(200, 7)
    # Two processes of two devices each see rows of every batch.
    parts = [SplitDistributions(200, 7) for _ in range(2)]
    for start in range(0, 200, 8):
        index = np.arange(start, start + 8)
        made.add(index, logits[index])
        for part, mine in zip(parts, (index[:4], index[4:]), strict=True):
            part.add(mine, logits[mine])
    assert made.score == pytest.approx(slow_score(logits, 10), rel=1e-12)
    parts[0].merge(SplitDistributions.of_arrays(parts[1].arrays()))
    assert parts[0].score == pytest.approx(made.score, rel=1e-12)


def test_inception_score_of_sure_and_even_classes_is_their_number():
    made = SplitDistributions(60, 3)
    made.add(np.arange(60), 50.0 * np.eye(3, dtype="f4")[np.arange(60) % 3])
    assert made.score == pytest.approx(3, rel=1e-12)


def test_of_fewer_images_than_splits_those_that_have_some_count():
    made = SplitDistributions(4, 2)
    made.add(np.arange(4), np.zeros((4, 2), "f4"))
    assert made.score == pytest.approx(1)

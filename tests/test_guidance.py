"""Guidance and truncation against plain NumPy, token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.config.reading import from_dict
from ddjax.method import truncation
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance, Guided, truncate
from tests import tiny
from tests.toy import ToyTeacher


def truncate_by_hand(logits, temperature, top_k, top_p):
    """One row at a time, in the words of the original: sort, accumulate, cut."""
    rows = []
    for row in np.asarray(logits, np.float64) / temperature:
        kept = row.copy()
        if top_k:
            kept[row < np.sort(row)[-top_k]] = -np.inf
        p = np.exp(kept - kept.max())
        p /= p.sum()
        total = 0.0
        for token in np.argsort(-p, kind="stable"):
            if total > top_p and top_p < 1:
                p[token] = 0
            total += np.exp(kept[token] - kept.max()) / np.exp(kept - kept.max()).sum()
        rows.append(p / p.sum())
    return np.array(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40])
@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3])
def test_truncate(temperature, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) * 2
    found = truncate(jnp.asarray(logits), Guidance(temperature=temperature, top_k=top_k,
                                                   top_p=top_p))
    np.testing.assert_allclose(
        np.exp(found), truncate_by_hand(logits, temperature, top_k, top_p), atol=2e-6
    )


@pytest.mark.parametrize("top_k", [0, 1, 7, 20])
@pytest.mark.parametrize("top_p", [1.0, 0.77, 0.31])
def test_truncate_where_many_tie(top_k, top_p):
    """Ties at the threshold of top-p go by their index; powers of two, so that sums are exact."""
    logits = np.random.default_rng(1).integers(-3, 3, size=(200, 30)) * np.log(2)
    logits = np.concatenate([logits, -np.abs(logits), np.zeros((1, 30))]).astype(np.float32)
    found = truncate(jnp.asarray(logits), Guidance(top_k=top_k, top_p=top_p))
    wanted = truncate_by_hand(logits, 1.0, top_k, top_p)
    np.testing.assert_array_equal(np.isfinite(found), wanted > 0)
    np.testing.assert_allclose(np.exp(found), wanted, atol=2e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 7])
def test_top_k_of_any_numbers(k):
    row = np.array([np.inf, -np.inf, -0.0, 0.0, 1e-30, -3e38, 3e38], np.float32)
    kth = np.sort(row)[-k]
    kept = np.isfinite(truncation.top_k(jnp.asarray(row), k)) | (row == np.inf)
    np.testing.assert_array_equal(kept, (row >= kth) & (row > -np.inf))


def test_ties_with_the_kth_are_kept():
    found = truncate(jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]]), Guidance(top_k=2))
    np.testing.assert_array_equal(np.isfinite(found), [[False, True, True, True, False]])


def test_top_p_keeps_the_token_that_crosses_and_always_the_first():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    kept = np.isfinite(truncate(logits, Guidance(top_p=0.6)))
    np.testing.assert_array_equal(kept, [[True, True, False]])
    kept = np.isfinite(truncate(logits, Guidance(top_p=0.01)))
    np.testing.assert_array_equal(kept, [[True, False, False]])


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(top_k=2), Guidance(top_p=0.5),
                                      Guidance(top_k=2, top_p=0.5)])
def test_what_is_not_a_number_is_never_cut_off(bad, guidance):
    rows = jnp.array([[1.0, 3.0, bad, 2.0, 0.0], [1.0, 3.0, 4.0, 2.0, 0.0]])
    found = np.asarray(truncate(rows, guidance))
    assert np.isnan(found[0]).any() and not np.isnan(found[1]).any()


@pytest.mark.parametrize(
    ("guidance", "strength"),
    [
        (Guidance(scale=3.0), [2, 2, 2, 2, 2]),
        (Guidance(scale=3.0, interval=1), [2, 2, 2, 0, 0]),
        (Guidance(scale=3.0, interval=0), [2, 2, 0, 0, 0]),
        (Guidance(scale=2.0, schedule="linear"), [0, 0.5, 1, 1.5, 2]),
    ],
)
def test_guided_logits(guidance, strength):
    """cond + w (cond - null) with the w of each group, from two separate unguided calls."""
    sizes = (1, 2, 1, 3, 1)
    teacher = ToyTeacher.make(sizes, 6)
    np.testing.assert_allclose(guidance.strength(Groups(sizes)), strength)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 6, size=(4, 8)))
    label = jnp.array([0, 1, 0, 1])
    cond, null = teacher.logits(ids, label), teacher.logits(ids, teacher.null(label))
    w = np.repeat(strength, sizes)[None, :, None]
    wanted = np.asarray(cond) + w * np.asarray(cond - null)
    wanted -= np.log(np.exp(wanted).sum(-1, keepdims=True))
    guided, starts = Guided(teacher, guidance), np.concatenate([[0], np.cumsum(sizes)])
    np.testing.assert_allclose(guided.log_probs(ids, label), wanted, atol=1e-5)
    for g in range(5):  # and so behind a prefix of any length, and a step behind that
        log_p, cache = guided.prefill(label, ids[:, : starts[g]])
        np.testing.assert_allclose(log_p, wanted[:, starts[g] : starts[g + 1]], atol=1e-5)
        if g < 4:
            log_p, _ = guided.step(ids[:, starts[g] : starts[g + 1]], g, cache)
            np.testing.assert_allclose(log_p, wanted[:, starts[g + 1] : starts[g + 2]], atol=1e-5)


def test_no_guidance_means_no_second_half():
    assert not Guidance(scale=1.0).is_guided
    assert not Guidance(scale=0.0, schedule="linear").is_guided
    assert not Guidance(scale=0.5).is_guided  # as the original
    assert Guidance(scale=0.5, schedule="linear").is_guided
    assert from_dict(tiny.get_config().to_dict()).guidance.is_guided

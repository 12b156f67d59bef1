"""Inspection: paths, entropies, margins and interpolation, against definitions and the map."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ddjax.config import from_dict
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance
from ddjax.pipeline import Pipeline, inspection
from tests import tiny


@pytest.fixture(scope="module")
def pipe():
    tree = tiny.get_config().to_dict()
    for section in ("tokenizer", "teacher", "student"):
        tree[section]["weights"] = "random"
    return Pipeline.from_config(from_dict(tree), Path("nowhere"), batch=4)


def distributions(count, vocab=16, ruled_out=3):
    logits = np.random.default_rng(0).normal(size=(count, vocab)).astype(np.float32)
    logits[:, :ruled_out] = -np.inf
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def noise(count, width=4, seed=1):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_entropies_are_those_of_scipy():
    log_p = distributions(5)
    np.testing.assert_allclose(
        inspection.entropies(log_p), stats.entropy(np.exp(log_p), axis=1), rtol=1e-5
    )


def test_paths_go_from_the_noise_to_the_code_of_the_map(pipe):
    """More tokens than a portion; at the end x is the code, up to what is left of the noise."""
    count = inspection.PATHS + 6
    log_p, eps = distributions(count), noise(count)
    found = inspection.paths(pipe, log_p, eps)
    ids = inspection.map_tokens(pipe, log_p, eps)
    np.testing.assert_array_equal(found.x_KNC[0], eps)
    np.testing.assert_array_equal(found.log_posterior_KNV[-1].argmax(axis=-1), ids)
    codes = np.asarray(normalise_codes(pipe.codebook))
    np.testing.assert_allclose(found.x_KNC[-1], codes[ids], atol=0.1)
    assert found.t_K[0] == 0 and (np.diff(found.t_K) > 0).all() and found.t_K[-1] < 1


def test_a_path_starts_at_the_probabilities_and_follows_the_flow(pipe):
    """dx/dt = (E[c | x] - x) / (1 - t), by the posterior that comes with the path."""
    log_p, eps = distributions(8), noise(8)
    found = inspection.paths(pipe, log_p, eps)
    np.testing.assert_allclose(found.log_posterior_KNV[0], log_p, atol=1e-5)
    codes = np.asarray(normalise_codes(pipe.codebook))
    slope = np.exp(found.log_posterior_KNV) @ codes - found.x_KNC
    slope = slope / (1 - found.t_K)[:, None, None]
    step = np.diff(found.t_K)[:, None, None]
    moved = step * (slope[1:] + slope[:-1]) / 2  # the trapezoidal rule
    np.testing.assert_allclose(np.diff(found.x_KNC, axis=0)[:16], moved[:16], atol=0.05)


def test_margins_tell_which_tokens_stay_when_their_noise_moves(pipe):
    count = 200
    log_p, eps = distributions(count), noise(count)
    margin = inspection.margins(pipe, log_p[None], eps[None])[0]
    ids = inspection.map_tokens(pipe, log_p, eps)
    moved = [np.sqrt(1 - 0.04) * eps + 0.2 * noise(count, seed=seed) for seed in range(2, 12)]
    stay = np.mean([inspection.map_tokens(pipe, log_p, one) == ids for one in moved], axis=0)
    order = np.argsort(margin)
    assert stay[order[-50:]].mean() > stay[order[:50]].mean() + 0.2


def test_interpolation_ends_at_both_noises_and_stays_normal():
    start, end = noise(4000), noise(4000, seed=2)
    found = inspection.interpolation(start, end, 5)
    np.testing.assert_allclose(found[0], start)
    np.testing.assert_allclose(found[-1], end, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=(1, 2)), 1, atol=0.03)
    np.testing.assert_allclose(found[2], (start + end) / np.sqrt(2), atol=1e-6)


def test_images_on_the_way_of_ids_and_noise_of_ones_own(pipe):
    eps = pipe.noise(2, seed=7)
    path = pipe.trajectory(labels=[3, 4], method="student_1step", noise=eps, steps=(4,))
    same = pipe.trajectory(labels=[3, 4], method="student_1step", seed=7, steps=(4,))
    np.testing.assert_array_equal(path.images, same.images)
    np.testing.assert_array_equal(pipe.images_at(4, path.ids, eps), path.images[0])


def test_other_guidance_is_another_pipeline_with_the_same_models(pipe):
    other = pipe.guided(Guidance(scale=6.0))
    before = pipe(labels=[3], method="teacher_flow").ids
    assert (other(labels=[3], method="teacher_flow").ids != before).any()
    np.testing.assert_array_equal(pipe(labels=[3], method="teacher_flow").ids, before)
    assert other._load("teacher") is pipe._load("teacher")

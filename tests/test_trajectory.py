"""Noise to ids: cached against teacher-forced, exact distributions, refinement, X_k."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.method import flow, trajectory
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance, Guided
from ddjax.models.llamagen import LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig
from tests.drawing import keys_of
from tests.toy import ToyTeacher

SOLVER = flow.Solver()
GUIDANCES = [Guidance(), Guidance(scale=2.0, top_k=3, top_p=0.95, temperature=0.9),
             Guidance(scale=1.0, schedule="linear")]


def codes_of(vocab, dim=4):
    codes = np.random.default_rng(0).normal(size=(vocab, dim)).astype(np.float32)
    return jnp.asarray(codes / np.linalg.norm(codes, axis=1, keepdims=True))


def gpt(vocab=16, grid=2):
    """A GPT with lively logits."""
    config = LlamaGenConfig(
        vocab_size=vocab, code_dim=4, grid=grid, width=32, layers=2, heads=2, num_classes=2
    )
    teacher = LlamaGenTeacher(config, rngs=nnx.Rngs(0))
    teacher.trunk.head.kernel[...] = 3 * teacher.trunk.head.kernel[...]
    return teacher


TEACHERS = {
    "raster": lambda: ToyTeacher.make((1,) * 7, 5),
    "scales": lambda: ToyTeacher.make((1, 3, 3, 4), 5),
    "gpt": gpt,
}


def exact_by_teacher_forcing(teacher, condition, eps, codes):
    """The map, group after group, with a whole uncached pass for each group."""

    @jax.jit
    def fresh(ids):
        return flow.noise_to_ids(eps, teacher.log_probs(ids, condition), codes, SOLVER)

    groups, ids = teacher.groups, jnp.zeros(eps.shape[:2], jnp.int32)
    for g in range(groups.count):
        own = slice(groups.starts[g], groups.starts[g + 1])
        ids = ids.at[:, own].set(fresh(ids)[:, own])
    return ids


def setting(name, guidance, batch=64):
    inner = TEACHERS[name]()
    teacher = Guided(inner, guidance)
    vocab = 16 if name == "gpt" else 5
    codes = codes_of(vocab)
    eps = jax.random.normal(jax.random.key(1), (batch, inner.groups.length, 4))
    return teacher, jnp.arange(batch) % 2, eps, codes


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("name", TEACHERS)
def test_cached_map_equals_teacher_forcing(name, guidance):
    teacher, condition, eps, codes = setting(name, guidance)
    ids = jax.jit(lambda: trajectory.map_noise(teacher, condition, eps, codes, SOLVER))()
    np.testing.assert_array_equal(ids, exact_by_teacher_forcing(teacher, condition, eps, codes))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 2, 1), (1, 3)])
@pytest.mark.parametrize("way", ["map_noise", "sample_ids"])
def test_joint_distribution_can_be_enumerated(sizes, way):
    """Total variation of 60,000 images to the exact joint stays within the sampling error."""
    vocab, count, guidance = 3, 60_000, Guidance(scale=1.5, temperature=1.2)
    teacher = Guided(ToyTeacher.make(sizes, vocab, sharpness=1.5), guidance)
    everything = jnp.asarray(list(itertools.product(range(vocab), repeat=4)))
    log_p = teacher.log_probs(everything, jnp.ones(len(everything), jnp.int32))
    chosen = jnp.take_along_axis(log_p, everything[..., None], axis=-1)[..., 0]
    joint = np.exp(np.asarray(chosen.sum(1), np.float64))
    np.testing.assert_allclose(joint.sum(), 1, atol=1e-5)

    condition = jnp.ones(count, jnp.int32)
    if way == "map_noise":
        eps = jax.random.normal(jax.random.key(2), (count, 4, 4))
        ids = jax.jit(
            lambda eps: trajectory.map_noise(teacher, condition, eps, codes_of(vocab), SOLVER)
        )(eps)
    else:
        ids = jax.jit(lambda keys: trajectory.sample_ids(
            teacher, condition, keys, trajectory.no_prefix(count)
        ))(keys_of(3, count))
    place = np.asarray(ids) @ vocab ** np.arange(3, -1, -1)
    found = np.bincount(place, minlength=vocab**4) / count
    distance = np.abs(found - joint).sum() / 2
    draws = np.random.default_rng(0).multinomial(count, joint / joint.sum(), size=200) / count
    floor = np.abs(draws - joint[None]).sum(1) / 2
    assert distance < floor.mean() + 4 * floor.std()


@pytest.mark.parametrize("name", TEACHERS)
def test_refinement_makes_a_group_exact_each_pass(name):
    teacher, condition, eps, codes = setting(name, GUIDANCES[1])

    @functools.partial(jax.jit, static_argnums=1)
    def refined(ids, passes):
        return trajectory.refine(teacher, condition, eps, codes, SOLVER, ids, passes)

    exact = jax.jit(lambda: trajectory.map_noise(teacher, condition, eps, codes, SOLVER))()
    np.testing.assert_array_equal(refined(exact, 1), exact)
    groups = teacher.groups
    for start in (jnp.zeros_like(exact), jax.random.randint(jax.random.key(5), exact.shape, 0, 5)):
        ids = start
        for tokens in groups.starts[1:]:
            ids = refined(ids, 1)
            np.testing.assert_array_equal(ids[:, :tokens], exact[:, :tokens])
        np.testing.assert_array_equal(refined(start, 2), refined(refined(start, 1), 1))


@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_generation_keeps_its_prefix_and_stops_where_told(first, stop):
    teacher, condition, _, _ = setting("scales", Guidance())
    starts = teacher.groups.starts
    prefix = jax.random.randint(jax.random.key(0), (64, int(starts[first])), 0, 5)
    ids = trajectory.sample_ids(teacher, condition, keys_of(1, 64), prefix, stop=stop)
    assert ids.shape == (64, starts[max(stop, first)])
    np.testing.assert_array_equal(ids[:, : prefix.shape[1]], prefix)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_the_map_goes_on_behind_a_prefix(first):
    """Behind it each token is the map of its noise given the ids before it, the prefix's too."""
    teacher, condition, eps, codes = setting("scales", GUIDANCES[1])
    length = int(teacher.groups.starts[first])
    prefix = jax.random.randint(jax.random.key(0), (len(eps), length), 0, 5)
    ids = trajectory.map_noise(teacher, condition, eps, codes, SOLVER, prefix)
    np.testing.assert_array_equal(ids[:, :length], prefix)
    mapped = flow.noise_to_ids(eps, teacher.log_probs(ids, condition), codes, SOLVER)
    np.testing.assert_array_equal(ids[:, length:], mapped[:, length:])
    assert first == 0 or (mapped[:, :length] != prefix).any()


def test_x_at_by_hand():
    groups = Groups((1, 2, 1))
    data, eps = jnp.ones((2, 4, 1)), jnp.zeros((2, 4, 1))
    x = trajectory.x_at(jnp.array([0, 2]), data, eps, groups)[..., 0]
    np.testing.assert_array_equal(x, [[0, 0, 0, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(trajectory.x_at(3, data, eps, groups), data)
    np.testing.assert_array_equal(trajectory.x_at(1, data, eps, groups)[0, :, 0], [1, 0, 0, 0])


def test_groups_by_hand():
    groups = Groups((1, 1, 1, 4, 9, 9))
    assert groups.runs(0, 6) == [(0, 3), (3, 4), (4, 6)]
    assert groups.runs(1, 5) == [(1, 3), (3, 4), (4, 5)]
    assert groups.length == 25 and list(groups.starts) == [0, 1, 2, 3, 7, 16, 25]
    with pytest.raises(ValueError, match="at least one token"):
        Groups((1, 0))
    assert [groups.before(tokens) for tokens in (0, 1, 3, 7, 16, 25)] == [0, 1, 3, 4, 5, 6]
    for tokens in (4, 24, 26):
        with pytest.raises(ValueError, match=f"{tokens} tokens are no whole groups"):
            groups.before(tokens)

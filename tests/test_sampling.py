"""Sampling: the student against a loop over tokens, and every way against its parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method import flow, trajectory, ways
from ddjax.method.baselines import Marginals
from ddjax.method.flow import Solver
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.method.sampling import (
    Batch,
    Drawn,
    Models,
    Settings,
    check_finite,
    student_sample,
)
from ddjax.runtime.errors import UserError
from tests.drawing import keys_of
from tests.toy import ToyTeacher

GROUPS, VOCAB, WIDTH = Groups((1, 2, 2, 1)), 7, 3
OF_CLASS = np.array([[0, 1, 2, 3, 4, 5], [6, 5, 4, 3, 2, 1]], np.int32)


@dataclasses.dataclass
class Mixing:
    """A student that mixes all tokens, and does otherwise at every k."""

    rng: np.random.Generator
    groups = GROUPS

    def __post_init__(self):
        length, normal = GROUPS.length, self.rng.standard_normal
        self.mix_KLL = normal((GROUPS.count, length, length)).astype(np.float32)
        self.head_CV = normal((WIDTH, VOCAB)).astype(np.float32)
        self.out_CC = normal((WIDTH, WIDTH)).astype(np.float32)

    def __call__(self, x_BLC, k, condition):
        h = jnp.tanh(jnp.einsum("lm,bmc->blc", self.mix_KLL[k], x_BLC) + condition[:, None, None])
        return h @ self.head_CV, h @ self.out_CC


def by_hand(student, codes, eps, condition, steps, split, start):
    group = GROUPS.of_token
    ids, x = (np.array(start.ids_BL), np.array(start.x_BLC)) if start else (None, np.array(eps))
    ids = np.zeros(eps.shape[:2], int) if ids is None else ids
    for k in steps:
        seen = np.array([[x[b, t] if group[t] < k else eps[b, t] for t in range(len(group))]
                         for b in range(len(eps))])
        logits, vectors = map(np.asarray, student(seen, k, condition))
        for b, t in np.ndindex(ids.shape):
            if group[t] < k:
                continue
            ids[b, t] = logits[b, t].argmax()
            x[b, t] = codes[ids[b, t]] if group[t] < split else vectors[b, t]
    for b, t in np.ndindex(ids.shape):
        if group[t] >= max(split, steps[0]):
            ids[b, t] = np.square(codes - x[b, t]).sum(axis=1).argmin()
    return ids, x, logits


@pytest.mark.parametrize("split", [4, 3, 1, 0])
@pytest.mark.parametrize(("steps", "starts"), [
    ((0,), False), ((0, 2), False), ((0, 1, 3), False), ((2,), True), ((1, 3), True),
])
def test_the_student_keeps_what_is_data_and_predicts_the_rest(steps, starts, split):
    rng = np.random.default_rng(0)
    student, condition = Mixing(rng), np.array([0.0, 0.7, -0.4], np.float32)
    codes = rng.standard_normal((VOCAB, WIDTH)).astype(np.float32)
    codes[-1] = codes[2]  # an id that is data stays, though another one has the same code
    eps = rng.standard_normal((3, GROUPS.length, WIDTH)).astype(np.float32)
    ids = rng.integers(VOCAB, size=(3, GROUPS.length))
    start = Drawn(jnp.asarray(ids), jnp.asarray(codes[ids])) if starts else None
    wanted = by_hand(student, codes, eps, condition, steps, split, start)
    with jax.numpy_rank_promotion("allow"):
        drawn = student_sample(
            student, jnp.asarray(codes), jnp.asarray(eps), condition, steps=steps, split=split,
            start=start,
        )
    np.testing.assert_array_equal(drawn.ids_BL, wanted[0])
    np.testing.assert_allclose(drawn.x_BLC, wanted[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(drawn.logits_BLV, wanted[2], rtol=1e-5, atol=1e-5)


class Codebook:
    """What a batch reads of a tokenizer."""

    def __init__(self, codes):
        self.codebook = codes


def batch(prefix_groups=0, steps=(0, 1, 3)):
    """Of 40 images; all pairs of class 0 have the ids 0..5, and those of class 1 have 6..1."""
    rng = np.random.default_rng(1)
    codes = rng.standard_normal((VOCAB, WIDTH)).astype(np.float32)
    label = np.arange(40) % 2
    bucket = np.arange(100) % 2
    models = Models(
        Codebook(jnp.asarray(codes)), ToyTeacher.make(GROUPS.sizes, VOCAB, code_dim=WIDTH),
        Mixing(rng), Marginals.of_pairs(OF_CLASS[bucket], bucket, 2),
    )
    settings = Settings(steps, GROUPS.count, Guidance(scale=1.5), Solver())
    prefix = rng.integers(VOCAB, size=(40, GROUPS.starts[prefix_groups]))
    return Batch(
        models, settings, jnp.asarray(rng.standard_normal((40, 6, WIDTH)).astype(np.float32)),
        jnp.asarray(label), jnp.asarray(label), keys_of(2, 40), jnp.asarray(prefix, jnp.int32),
    )


@pytest.fixture
def ranks():
    with jax.numpy_rank_promotion("allow"):  # of `Mixing`
        yield


def by_student(b, steps, ids=None):
    start = None if ids is None else b.coded(jnp.pad(ids, ((0, 0), (0, 6 - ids.shape[1]))))
    return student_sample(
        b.models.student, b.codes_VC, b.eps_BLC, b.condition, steps=steps, split=4, start=start
    ).ids_BL


@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 3), (2, 4)])
def test_the_teacher_draws_its_groups_and_the_student_what_is_around_them(first, last, ranks):
    b = batch()
    wanted = by_student(b, (0,))[:, : GROUPS.starts[first]]
    wanted = trajectory.sample_ids(b.teacher, b.condition, b.keys_B, wanted, stop=last)
    if last < 4:
        wanted = by_student(b, (last,), wanted)
    drawn = ways.parse(f"teacher_involved_{first}_{last}").draw(b)
    np.testing.assert_array_equal(drawn.ids_BL, wanted)
    assert (by_student(b, (0,)) != wanted).any()


def test_steps_within_a_prefix_are_left_out(ranks):
    b = batch(prefix_groups=2)
    drawn = ways.parse("student_3step").draw(b)
    np.testing.assert_array_equal(drawn.ids_BL, by_student(b, (2, 3), b.prefix_BP))
    np.testing.assert_array_equal(drawn.ids_BL[:, :3], b.prefix_BP)


def test_the_first_steps_are_taken_and_log_probs_are_of_the_last(ranks):
    b, way = batch(), ways.parse("student_2step")
    drawn = way.draw(b)
    np.testing.assert_array_equal(drawn.ids_BL, by_student(b, (0, 1)))
    p = np.exp(np.asarray(way.log_probs(b, drawn), np.float64))
    odds = np.exp(np.asarray(drawn.logits_BLV, np.float64))
    np.testing.assert_allclose(p, odds / odds.sum(-1, keepdims=True), rtol=1e-4, atol=1e-7)


def test_refinement_begins_with_the_student_or_with_whole_images(ranks):
    for b in (batch(), batch(prefix_groups=4)):
        start = b.prefix_BP if b.prefix_BP.size else by_student(b, (0,))
        log_p = b.teacher.log_probs(start, b.condition)
        way = ways.parse("refine_1")
        drawn = way.draw(b)
        wanted = flow.noise_to_ids(b.eps_BLC, log_p, b.codes_VC, b.settings.solver)
        np.testing.assert_array_equal(drawn.ids_BL, wanted)
        np.testing.assert_allclose(way.log_probs(b, drawn), log_p, rtol=1e-5, atol=1e-5)


def test_baselines_take_the_marginals_of_their_bucket():
    b = batch()
    of_class = OF_CLASS[b.bucket_B]
    np.testing.assert_array_equal(ways.parse("onestep_class").draw(b).ids_BL, of_class)
    of_all = np.asarray(ways.parse("onestep_all").draw(b).ids_BL)
    of_first = of_all == OF_CLASS[0]
    assert (of_first | (of_all == OF_CLASS[1])).all()
    mixed = (of_first != of_first[:, :1]).any(axis=1)
    assert mixed.sum() > 30  # of 40, since tokens are drawn independently: 39 are expected
    skipped = np.asarray(ways.parse("skip_1").draw(b).ids_BL)
    np.testing.assert_array_equal(skipped[:, 5:], of_class[:, 5:])
    assert (skipped[:, 1:5] != of_class[:, 1:5]).any(axis=1).sum() > 30


@pytest.mark.parametrize(("name", "passes"), [
    ("teacher_ar", 4), ("teacher_flow", 4), ("student_1step", 1), ("student_3step", 3),
    ("teacher_involved_0_2", 3), ("teacher_involved_1_3", 4), ("teacher_involved_1_4", 4),
    ("refine_2", 3), ("skip_1", 3), ("onestep_class", 1), ("onestep_all", 1),
])
def test_passes_by_hand(name, passes):
    way = ways.parse(name)
    assert way.passes(GROUPS) == passes and way.name == name
    assert not way.problem(GROUPS, batch().settings)


@pytest.mark.parametrize("name", [
    "student_0step", "student_4step", "teacher_involved_2_2", "teacher_involved_1_5", "refine_0",
    "skip_0", "skip_4",
])
def test_numbers_that_make_no_sense_are_a_problem(name):
    assert ways.parse(name).problem(GROUPS, batch().settings)


def test_what_is_not_a_number_is_marked():
    b = batch()
    drawn = b.coded(jnp.asarray([[1, -1]]))
    assert np.isnan(drawn.x_BLC[0, 1]).all() and np.isfinite(drawn.x_BLC[0, 0]).all()
    made = np.zeros((3, 2, 2))
    check_finite("refine_1", made, 7)
    made[1, 1, 0] = np.nan
    with pytest.raises(UserError, match=r"refine_1: image 8 is not finite"):
        check_finite("refine_1", made, 7)


def test_a_teacher_that_is_not_a_number_draws_no_id():
    b = batch()
    head = b.models.teacher.head_LHV
    head[...] = head[...].at[3].set(jnp.nan)
    ids = np.asarray(ways.parse("teacher_ar").draw(b).ids_BL)
    assert (ids[:, 3] == -1).all() and (ids[:, :3] >= 0).all()

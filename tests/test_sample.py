"""Ways of sampling: against plain NumPy with a student whose predictions are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddjax import baselines, flow, sample, trajectory
from ddjax.errors import UserError
from ddjax.groups import Groups
from ddjax.guidance import Guidance, Guided
from ddjax.methods import Method
from tests.test_trajectory import codes_of
from tests.toy import ToyTeacher

SIZES, VOCAB, DIM, BATCH = (1, 2, 2, 3), 5, 4, 6


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ToyStudent:
    """Logits and vectors are random functions of (x, k); any groups."""

    head: jax.Array
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def groups(self):
        return Groups(self.sizes)

    def __call__(self, x, k, condition):
        h = jnp.sin(3 * jnp.cumsum(x, axis=1) + 0.5 * k + condition[:, None, None])
        return jnp.einsum("blc,cv->blv", h, self.head), jnp.cos(2 * h)


@dataclasses.dataclass
class ToyTokenizer:
    codebook: jax.Array


def student():
    return ToyStudent(jax.random.normal(jax.random.key(0), (DIM, VOCAB)), SIZES)


def by_hand(net, codes, eps, label, steps, split):
    """The loop of the released code, one position at a time."""
    of_token = np.repeat(np.arange(len(SIZES)), SIZES)
    x = np.array(eps)
    for k in steps:
        x_k = np.array([[x[b, i] if of_token[i] < k else eps[b, i] for i in range(8)]
                        for b in range(BATCH)])
        logits, vectors = map(np.asarray, net(jnp.asarray(x_k), k, label))
        for b in range(BATCH):
            for i in range(8):
                if of_token[i] >= k:
                    code = codes[logits[b, i].argmax()]
                    x[b, i] = code if of_token[i] < split else vectors[b, i]
    return x


@pytest.mark.parametrize("steps", [(0,), (0, 2), (0, 1, 3)])
@pytest.mark.parametrize("split", [0, 1, 3, 4])
def test_student_sample(steps, split):
    codes, label = np.asarray(codes_of(VOCAB)), jnp.arange(BATCH) % 2
    eps = jax.random.normal(jax.random.key(1), (BATCH, 8, DIM))
    found = sample.student_sample(
        student(), jnp.asarray(codes), eps, label, steps=steps, split=split
    )
    wanted = by_hand(student(), codes, np.asarray(eps), label, steps, split)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def parts(pool=None):
    return sample.Parts(
        ToyTokenizer(codes_of(VOCAB)), ToyTeacher.make(SIZES, VOCAB), student(), pool
    )


SETTINGS = sample.Settings((0, 2), 4, Guidance(scale=1.5), flow.Solver(), 2)


def draw(name, pool=None, key=3, batch=BATCH, given=None):
    eps = jax.random.normal(jax.random.key(1), (batch, 8, DIM))
    label = jnp.arange(batch) % 2
    x = sample.draw(
        given or parts(pool), eps, label, jax.random.key(key), method=Method.parse(name),
        settings=SETTINGS,
    )
    return eps, label, np.asarray(x)


def test_teacher_involved_is_student_then_teacher_then_student():
    """Groups before `first` are the student's codes, first..last-1 the teacher's draw behind them,
    and the rest the student's prediction from X_last with the same noise."""
    eps, label, x = draw("teacher_involved_1_3")
    codes, p = codes_of(VOCAB), parts()
    one = sample.student_sample(p.student, codes, eps, label, steps=(0,), split=4)
    np.testing.assert_array_equal(x[:, :1], one[:, :1])
    ids = flow.nearest_ids(one, codes)[:, :1]
    teacher = Guided(p.teacher, SETTINGS.guidance)
    ids = trajectory.sample_ids(teacher, label, jax.random.key(3), ids, stop=3)
    np.testing.assert_array_equal(x[:, :5], codes[ids])
    x_3 = np.concatenate([codes[ids], eps[:, 5:]], axis=1)
    logits, _ = p.student(jnp.asarray(x_3), 3, label)
    np.testing.assert_array_equal(x[:, 5:], codes[logits.argmax(-1)][:, 5:])


def test_teacher_involved_from_the_start_to_the_end_is_plain_ar():
    _, _, x = draw("teacher_involved_0_4")
    _, _, y = draw("teacher_ar")
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", [
    "teacher_ar", "teacher_flow", "refine_1", "teacher_involved_1_3", "skip_1"
])
def test_a_teacher_that_is_not_a_number_makes_no_image(name):
    """Class 1 alone: an arg max of NaN would be a token like any other."""
    given = parts(jnp.zeros((4, 8), jnp.int32))
    given.teacher.label_YH = given.teacher.label_YH.at[1].set(jnp.nan)
    _, label, x = draw(name, given=given)
    finite = np.isfinite(x).all(axis=(1, 2))
    np.testing.assert_array_equal(finite, label == 0)
    with pytest.raises(UserError, match=rf"{name}: image 11 is not finite; look at the weights"):
        sample.check_finite(Method.parse(name), x, first=10)
    sample.check_finite(Method.parse(name), x[::2], first=10)


def test_refinement_with_all_passes_is_the_exact_map():
    _, _, x = draw("refine_4")
    _, _, y = draw("teacher_flow")
    np.testing.assert_array_equal(x, y)
    assert (draw("refine_1")[2] != y).any()


def test_skip_keeps_the_head_of_the_teacher_and_draws_the_rest_from_the_marginals():
    pool = jax.random.randint(jax.random.key(9), (40, 8), 0, VOCAB)
    pool = pool.at[:, -3:].set(jnp.arange(40)[:, None] % 2)  # the last group tells the class
    _, label, x = draw("skip_1", pool)
    ids = np.asarray(flow.nearest_ids(jnp.asarray(x), codes_of(VOCAB)))
    np.testing.assert_array_equal(ids[:, -3:], np.repeat(label[:, None], 3, axis=1))
    head_key, _ = jax.random.split(jax.random.key(3))
    head = trajectory.sample_ids(
        Guided(parts().teacher, SETTINGS.guidance), label, head_key,
        trajectory.no_prefix(len(label)), stop=3,
    )
    np.testing.assert_array_equal(ids[:, :5], head)


@pytest.mark.parametrize("given_class", [True, False])
def test_onestep_draws_each_position_from_its_marginal(given_class):
    """Chi-square at every position; they are independent though the pool's are not."""
    rng, count = np.random.default_rng(0), 40_000
    first = rng.integers(0, VOCAB, size=200)
    pool = np.stack([first, first, (first + np.arange(200) % 2) % VOCAB], axis=1)
    label = jnp.arange(count) % 2
    ids = np.asarray(baselines.onestep(
        jnp.asarray(pool), label if given_class else None, count, 2, jax.random.key(0)
    ))
    for cls in range(2):
        mine = ids[np.asarray(label) == cls]
        source = pool[cls::2] if given_class else pool
        for position in range(3):
            p = np.bincount(source[:, position], minlength=VOCAB) / len(source)
            found = np.bincount(mine[:, position], minlength=VOCAB)
            assert scipy.stats.chisquare(found, p * len(mine)).pvalue > 1e-3
        p = np.bincount(source[:, 0], minlength=VOCAB) / len(source)
        np.testing.assert_allclose(np.mean(mine[:, 0] == mine[:, 1]), (p**2).sum(), atol=0.02)


@pytest.mark.parametrize(
    ("name", "passes"),
    [("teacher_ar", 256), ("teacher_flow", 256), ("student_1step", 1), ("student_2step", 2),
     ("teacher_involved_60_80", 22), ("teacher_involved_0_80", 81), ("teacher_involved_0_256", 256),
     ("refine_1", 2), ("refine_2", 3), ("skip_106", 150), ("onestep_class", 1),
     ("onestep_all", 1)],
)
def test_passes_of_each_method(name, passes):
    """Those of the paper's tables, for the methods it has."""
    method = Method.parse(name)
    assert method.name == name
    assert method.passes(256) == passes


def test_methods_from_parts():
    assert Method.from_parts("refine", passes=2, first=0, last=0).name == "refine_2"
    assert Method.from_parts("student", passes=1, first=0, last=0).name == "student_1step"
    assert Method.from_parts("skip", passes=3, first=0, last=0).name == "skip_3"
    assert Method.from_parts("teacher_involved", 1, 4, 6).name == "teacher_involved_4_6"
    assert Method.from_parts("teacher_flow", 1, 4, 6).name == "teacher_flow"
    assert Method.from_parts("refine_2", 1, 4, 6).name == "refine_2"
    with pytest.raises(UserError, match=r"known are teacher_ar, .*refine_N"):
        Method.from_parts("refined", 1, 0, 0)

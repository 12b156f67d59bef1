"""Ways of sampling: what they read, what stays, and what each image depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddjax.method import baselines, codes, flow, sampling, trajectory, ways
from ddjax.method.baselines import Marginals
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance, Guided
from ddjax.method.sampling import Models, Settings
from ddjax.runtime.errors import UserError
from tests import drawing
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ToyRefiningStudent(ToyStudent):
    """Reads its last codes as it reads noise."""

    def refined(self, x, last, condition):
        return self(x + 0.7 * last, 0, condition)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ToyTokenizer:
    codebook: jax.Array


def student():
    return ToyStudent(jax.random.normal(jax.random.key(0), (DIM, VOCAB)), SIZES)


def models(marginals=None):
    return Models(
        ToyTokenizer(codes_of(VOCAB)), ToyTeacher.make(SIZES, VOCAB), student(), marginals
    )


SETTINGS = Settings((0, 2), 4, Guidance(scale=1.5), flow.Solver())


def draw(name, marginals=None, seed=3, batch=BATCH, given=None, prefix=None):
    eps = jax.random.normal(jax.random.key(1), (batch, 8, DIM))
    label = jnp.arange(batch) % 2
    drawn = drawing.draw_at_once(name, drawing.batch(
        given or models(marginals), SETTINGS, eps, label, seed=seed, bucket=label, prefix=prefix,
    ))
    return eps, label, drawn


@pytest.mark.parametrize("name", [
    "teacher_ar", "teacher_flow", "student_1step", "student_2step", "refine_1",
    "teacher_involved_1_3", "skip_1", "onestep_class", "onestep_all",
])
def test_ids_are_those_of_the_vectors(name):
    pool = np.random.default_rng(0).integers(0, VOCAB, (40, 8))
    _, _, drawn = draw(name, Marginals.of_pairs(pool, np.arange(40) % 2, 2))
    np.testing.assert_array_equal(drawn.ids_BL, codes.nearest_ids(drawn.x_BLC, codes_of(VOCAB)))


def test_teacher_involved_from_the_start_to_the_end_is_plain_ar():
    _, _, x = draw("teacher_involved_0_4")
    _, _, y = draw("teacher_ar")
    np.testing.assert_array_equal(x.x_BLC, y.x_BLC)


@pytest.mark.parametrize("name", [
    "teacher_ar", "teacher_flow", "refine_1", "teacher_involved_1_3", "skip_1"
])
def test_a_teacher_that_is_not_a_number_makes_no_image(name):
    """Class 1 alone: an arg max of NaN would be a token like any other."""
    pool = np.zeros((4, 8), np.int32)
    given = models(Marginals.of_pairs(pool, np.arange(4) % 2, 2))
    given.teacher.label_YH = given.teacher.label_YH.at[1].set(jnp.nan)
    _, label, drawn = draw(name, given=given)
    x = np.asarray(drawn.x_BLC)
    finite = np.isfinite(x).all(axis=(1, 2))
    np.testing.assert_array_equal(finite, label == 0)
    with pytest.raises(UserError, match=rf"{name}: image 11 is not finite; look at the weights"):
        sampling.check_finite(name, x, first=10)
    sampling.check_finite(name, x[::2], first=10)


def test_refinement_with_all_passes_is_the_exact_map():
    exact = draw("teacher_flow")[2].x_BLC
    np.testing.assert_array_equal(draw("refine_4")[2].x_BLC, exact)
    assert (draw("refine_1")[2].x_BLC != exact).any()


def test_a_student_refines_its_own_images():
    """Each pass from the same noise and the codes of the pass before; the first has none."""
    net = ToyRefiningStudent(student().head, SIZES)
    eps, label, drawn = draw("self_refine_2", given=models()._replace(student=net))
    book, last = codes_of(VOCAB), jnp.zeros_like(eps)
    for turn in range(3):
        logits, _ = net.refined(eps, last, label)
        assert turn == 0 or (book[logits.argmax(-1)] != last).any()
        last = book[logits.argmax(-1)]
    np.testing.assert_array_equal(drawn.x_BLC, last)
    np.testing.assert_array_equal(drawn.logits_BLV, logits)
    with pytest.raises(UserError, match="ToyStudent cannot refine its own images; train a"):
        draw("self_refine_1")


@pytest.mark.parametrize("name", ["teacher_ar", "teacher_flow", "student_2step", "skip_1"])
def test_a_prefix_of_ids_stays(name):
    """Its own continuation, given back as a prefix, ends the same where noise decides."""
    pool = np.random.default_rng(0).integers(0, VOCAB, (40, 8))
    given = models(Marginals.of_pairs(pool, np.zeros(40, int), 2))
    prefix = jax.random.randint(jax.random.key(8), (BATCH, 3), 0, VOCAB)
    _, _, drawn = draw(name, given=given, prefix=prefix)
    np.testing.assert_array_equal(drawn.ids_BL[:, :3], prefix)
    np.testing.assert_array_equal(drawn.x_BLC[:, :3], codes_of(VOCAB)[prefix])
    if name == "teacher_flow":
        again = draw(name, given=given, prefix=drawn.ids_BL[:, :5])[2]
        np.testing.assert_array_equal(again.ids_BL, drawn.ids_BL)
    with pytest.raises(ValueError, match="2 tokens are no whole groups"):
        draw(name, given=given, prefix=prefix[:, :2])


def test_refinement_starts_from_whole_images_where_they_are_given():
    exact = draw("teacher_flow")[2].ids_BL
    no_student = models()._replace(student=None)
    found = draw("refine_1", given=no_student, prefix=exact)[2]
    np.testing.assert_array_equal(found.ids_BL, exact)


@pytest.mark.parametrize("name", ["teacher_ar", "teacher_flow", "student_1step", "refine_2"])
def test_log_probs_are_what_the_ids_were_chosen_from(name):
    """By each way's own rule for choosing, the ids follow from them."""
    eps, label, drawn = draw(name)
    way, m = ways.parse(name), models()
    batch = drawing.batch(m, SETTINGS, eps, label, bucket=label)
    log_p = way.log_probs(batch, drawn)
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)
    if name == "student_1step":
        again = log_p.argmax(-1)
    elif name == "teacher_ar":
        again = jnp.concatenate([
            jax.vmap(lambda k, p, g=g: jax.random.categorical(jax.random.fold_in(k, g), p))(
                drawing.keys_of(3, BATCH), log_p[:, a:b])
            for g, (a, b) in enumerate(zip((0, 1, 3, 5), (1, 3, 5, 8), strict=True))
        ], axis=1)
    else:
        again = flow.noise_to_ids(eps, log_p, codes_of(VOCAB), SETTINGS.solver)
    np.testing.assert_array_equal(again, drawn.ids_BL)


def test_skip_keeps_the_head_of_the_teacher_and_draws_the_rest_from_the_marginals():
    pool = np.random.default_rng(9).integers(0, VOCAB, (40, 8))
    pool[:, -3:] = np.arange(40)[:, None] % 2  # the last group tells the class
    _, label, drawn = draw("skip_1", Marginals.of_pairs(pool, np.arange(40) % 2, 2))
    ids = np.asarray(drawn.ids_BL)
    np.testing.assert_array_equal(ids[:, -3:], np.repeat(label[:, None], 3, axis=1))
    head_keys = jax.vmap(jax.random.split)(drawing.keys_of(3, BATCH))[:, 0]
    head = trajectory.sample_ids(
        Guided(models().teacher, SETTINGS.guidance), label, head_keys,
        trajectory.no_prefix(len(label)), stop=3,
    )
    np.testing.assert_array_equal(ids[:, :5], head)


@pytest.mark.parametrize("given_class", [True, False])
def test_onestep_draws_each_position_from_its_marginal(given_class):
    """Chi-square at every position; they are independent though the pool's are not, and the pairs'
    own buckets count, in whatever order and however many there are of each."""
    rng, count = np.random.default_rng(0), 40_000
    first = rng.integers(0, VOCAB, size=200)
    bucket = (rng.random(200) < 0.3).astype(np.int32)
    pool = np.stack([first, first, (first + bucket) % VOCAB], axis=1)
    label = jnp.arange(count) % 2
    ids = np.asarray(baselines.onestep(
        Marginals.of_pairs(pool, bucket, 2), label if given_class else None,
        drawing.keys_of(0, count),
    ))
    for cls in range(2):
        mine = ids[np.asarray(label) == cls]
        source = pool[bucket == cls] if given_class else pool
        for position in range(3):
            p = np.bincount(source[:, position], minlength=VOCAB) / len(source)
            found = np.bincount(mine[:, position], minlength=VOCAB)
            assert scipy.stats.chisquare(found, p * len(mine)).pvalue > 1e-3
        p = np.bincount(source[:, 0], minlength=VOCAB) / len(source)
        np.testing.assert_allclose(np.mean(mine[:, 0] == mine[:, 1]), (p**2).sum(), atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher_ar", "teacher_involved_1_3", "skip_1", "onestep_class"])
def test_what_is_drawn_depends_on_the_image_alone(name):
    """Not on the others of its batch, nor on its place there."""
    pool = np.random.default_rng(0).integers(0, VOCAB, (40, 8))
    marginals = Marginals.of_pairs(pool, np.arange(40) % 2, 2)
    eps, label, both = draw(name, marginals, batch=8)
    for rows in (slice(0, 4), slice(4, 8)):
        batch = drawing.batch(models(marginals), SETTINGS, eps, label, bucket=label)
        part = dataclasses.replace(batch, **{
            field: getattr(batch, field)[rows]
            for field in ("eps_BLC", "condition", "bucket_B", "keys_B", "prefix_BP")
        })
        found = drawing.draw_at_once(name, part)
        np.testing.assert_array_equal(found.ids_BL, both.ids_BL[rows])
    assert len(np.unique(both.ids_BL, axis=0)) > 2


@pytest.mark.parametrize(
    ("name", "passes"),
    [("teacher_ar", 256), ("teacher_flow", 256), ("student_1step", 1), ("student_2step", 2),
     ("teacher_involved_60_80", 22), ("teacher_involved_0_80", 81), ("teacher_involved_0_256", 256),
     ("refine_1", 2), ("refine_2", 3), ("self_refine_2", 3), ("skip_106", 150),
     ("onestep_class", 1), ("onestep_all", 1)],
)
def test_passes_of_each_way(name, passes):
    """Those of the paper's tables, for the methods it has."""
    way = ways.parse(name)
    assert way.name == name
    assert way.passes(Groups((1,) * 256)) == passes


@pytest.mark.parametrize("name", ["refined", "refine_", "student_step", "teacher_involved_1"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=rf"{name}'.* known are teacher_ar, .*refine_N"):
        ways.parse(name)

"""Score distillation of a student: who gets which gradient, and a job that does it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ddjax.config.reading import from_dict
from ddjax.config.schema import ScoreSection, TrainSection
from ddjax.method import score_distillation
from ddjax.method.codes import normalise_codes
from ddjax.method.guidance import Guidance, Guided
from ddjax.models.llamagen import LlamaGenRefiningStudent, LlamaGenStudent, LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig
from ddjax.models.var import VARRefiningStudent, VARTeacher
from ddjax.models.var_trunk import VARConfig
from ddjax.runtime import trees
from ddjax.runtime.errors import UserError
from ddjax.stages import distill_score, registry, running
from ddjax.stages.distill_score import Frozen
from ddjax.storage import run_models
from ddjax.training.following import Beside
from tests import tiny

TRAIN = {"steps": 6, "batch": 8, "learning_rate": 1e-3, "warmup": 2, "log_every": 1,
         "checkpoint_every": 4}
SECTION = ScoreSection(TrainSection(**TRAIN), TrainSection(**TRAIN))
GUIDANCE = Guidance(scale=1.5, top_k=9)
CODES = jax.random.normal(jax.random.key(8), (16, 4))


@functools.cache
def players():
    """Student, fake model, teacher."""
    sizes = from_dict(tiny.get_config().to_dict()).teacher.model
    teacher, fake = (LlamaGenTeacher(sizes, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    return LlamaGenStudent(sizes, rngs=nnx.Rngs(2)), fake, teacher


def noise(key):
    """As `distill_score.drawn` makes it."""
    return jax.random.normal(jax.random.split(key)[0], (4, 16, 4))


def check_first_alone_learns(grads, wanted, atol):
    for a, b in zip(jax.tree.leaves(grads[0]), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    for still in jax.tree.leaves(grads[1:]):
        np.testing.assert_array_equal(still, 0)


def test_the_fake_model_learns_the_students_ids_alone():
    """Its gradient is that of its cross-entropy; the student and the teacher have none."""
    student, fake, teacher = players()
    batch, key = {"condition": jnp.arange(4)}, jax.random.key(3)

    def value(fake, student, teacher):
        beside = Beside(student, Frozen(CODES, teacher))
        return distill_score.fake_loss(fake, beside, batch, key, passes=1)[0]

    grads = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(fake, student, teacher)
    ids = student(noise(key), 0, jnp.arange(4))[0].argmax(-1)

    def nats(fake):
        logits = fake.logits(ids, jnp.arange(4))
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids).mean()

    wanted = jax.jit(jax.grad(nats))(fake)
    check_first_alone_learns(grads, wanted, atol=1e-6)


def test_the_student_follows_the_direction_alone():
    """By hand: the guided teacher and the fake model on its ids, noised as the keys say."""
    student, fake, teacher = players()
    keys, label = jax.random.split(jax.random.key(3), 3), jnp.arange(4)

    def value(student, fake, teacher):
        beside = Beside(fake, Frozen(CODES, teacher))
        return distill_score.loss(
            student, beside, {"condition": label}, jax.random.key(3), section=SECTION,
            guidance=GUIDANCE,
        )[0]

    grads = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(student, fake, teacher)
    codes = normalise_codes(CODES)
    eps = noise(keys[0])
    ids = student(eps, 0, label)[0].argmax(-1)
    towards = score_distillation.direction(
        Guided(teacher, GUIDANCE).log_probs(ids, label),
        jax.nn.log_softmax(fake.logits(ids, label)), codes[ids],
        SECTION.levels.draw(keys[1], (4, 16)), jax.random.normal(keys[2], (4, 16, 4)), codes,
    )

    def inner(student):
        expected = jax.nn.softmax(student(eps, 0, label)[0]) @ codes
        return jnp.sum(expected * towards) / 4

    wanted = jax.jit(jax.grad(inner))(student)
    check_first_alone_learns(grads, wanted, atol=2e-5)


def test_images_are_drawn_in_one_to_so_many_passes():
    """As many of each, and the gradient is that of the last pass alone."""
    sizes = from_dict(tiny.get_config().to_dict()).teacher.model
    student = LlamaGenRefiningStudent(sizes, rngs=nnx.Rngs(2))
    table = student.last_embed.kernel
    table[...] = jax.random.normal(jax.random.key(9), table.shape)
    key, label = jax.random.key(4), jnp.arange(300) % 10
    logits = jax.jit(lambda student: distill_score.drawn(student, CODES, label, key, 3))(student)
    eps = jax.random.normal(jax.random.split(key)[0], (300, 16, 4))
    last, shares = jnp.zeros_like(eps), []
    for _ in range(3):
        wanted = student.refined(eps, last, label)[0]
        shares.append(np.abs(wanted - logits).max((1, 2)) < 1e-4)
        last = CODES[wanted.argmax(-1)]
    assert sum(shares).max() == sum(shares).min() == 1
    assert all(70 < share.sum() < 130 for share in shares)


CAPTION = {"caption_tokens": 3, "caption_dim": 6}
SIZES = {"vocab_size": 16, "code_dim": 4, "width": 16, "layers": 2, "heads": 2}
FAMILIES = {
    "captions": (LlamaGenTeacher, LlamaGenRefiningStudent,
                 LlamaGenConfig(grid=2, **CAPTION, **SIZES),
                 {"features": jax.random.normal(jax.random.key(1), (4, 3, 6)),
                  "mask": jnp.arange(3)[None] < jnp.array([[1], [2], [3], [3]])}),
    "scales": (VARTeacher, VARRefiningStudent, VARConfig(scales=(1, 2), num_classes=4, **SIZES),
               jnp.arange(4)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_condition_has_both_gradients(name):
    """In one and two passes; of the student all that its logits depend on."""
    teacher_of, student_of, sizes, condition = FAMILIES[name]
    teacher, fake = (teacher_of(sizes, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    student = student_of(sizes, rngs=nnx.Rngs(2))
    section = dataclasses.replace(SECTION, passes=2)
    frozen, batch, key = Frozen(CODES, teacher), {"condition": condition}, jax.random.key(3)

    @jax.jit
    def gradients(student, fake):
        lead = jax.grad(distill_score.loss, has_aux=True)(
            student, Beside(fake, frozen), batch, key, section=section, guidance=GUIDANCE
        )
        follow = jax.grad(distill_score.fake_loss, has_aux=True)(
            fake, Beside(student, frozen), batch, key, passes=2
        )
        return lead[0], follow[0]

    student_grads, fake_grads = map(trees.flatten, gradients(student, fake))
    assert all(np.isfinite(leaf).all() for leaf in (*student_grads.values(), *fake_grads.values()))
    for grads, part in ((student_grads, "trunk"), (fake_grads, "trunk"),
                        (student_grads, "last_embed")):
        assert max(np.abs(leaf).max() for at, leaf in grads.items() if part in at) > 1e-6
    assert all((leaf == 0).all() for at, leaf in student_grads.items() if "vector_head" in at)


def job(method):
    tree = tiny.get_config().to_dict()
    tree["distill"] |= {"method": method, "perceptual": 0.0,
                        "score": {"train": TRAIN, "fake": TRAIN}}
    tree["student"]["split"] = 16
    for section in (tree["tokenizer"], tree["teacher"]):
        section["weights"] = "random"
    return tree


@pytest.mark.slow
@pytest.mark.parametrize(("method", "passes", "cls"), [
    ("score", 1, LlamaGenStudent), ("map,score", 2, LlamaGenRefiningStudent),
])
def test_a_job(tmp_path, method, passes, cls):
    tree = job(method)
    tree["distill"]["score"]["passes"] = passes
    if passes > 1:
        tree["student"]["kind"] = "llamagen_refining_student"
    tree["sample"] |= {"method": "self_refine_1" if passes > 1 else "student_1step"}
    config = from_dict(tree)
    for name in ["pairs"] * ("map" in method) + ["distill", "sample"]:
        running.run(config, tmp_path, registry.STAGES[name])
    assert isinstance(run_models.load(config, tmp_path, "student"), cls)
    assert (tmp_path / "distill" / "map" / "model").exists() == ("map" in method)


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": "score", "score": None}, r"distill\.score: got none, must be given"),
    ({"method": "scores"}, r"distill\.method: got scores, must be map, score, or map,score"),
    ({"method": "score", "score": {"train": TRAIN, "fake": TRAIN, "passes": 2}},
     r"distill\.score\.passes: got 2, must be of a refining student: student\.kind "
     r"llamagen_refining_student or var_refining_student, not llamagen_student"),
    ({"method": "score", "score": {"train": TRAIN, "fake": TRAIN, "fake_updates": 0}},
     r"distill\.score\.fake_updates: got 0, must be >= 1"),
    ({"method": "map,score", "perceptual": 0.1, "split": 10},
     r"student\.split: got 10, must be 16, all groups, with distill\.method=score"),
    ({"method": "score,map"}, r"distill\.method: got score,map, must be map, score"),
])
def test_what_does_not_fit_is_refused(changes, message):
    tree = job("map")
    tree["student"]["split"] = changes.get("split", 16)
    tree["distill"] |= {key: value for key, value in changes.items() if key != "split"}
    with pytest.raises(UserError, match=message):
        from_dict(tree)


def test_pairs_need_be_no_batch_where_none_is_read():
    tree = job("score")
    tree["pairs"]["count"], tree["distill"]["train"]["batch"] = 10, 12
    from_dict(tree)
    tree["distill"]["method"] = "map,score"
    with pytest.raises(UserError, match=r"distill\.train\.batch: got \d+, must be at most"):
        from_dict(tree)


def test_a_student_that_cannot_refine_itself_is_not_evaluated_so():
    tree = job("map")
    tree["evaluate"]["methods"] = "self_refine_1"
    with pytest.raises(UserError, match=r"evaluate\.methods: got self_refine_1, must be of a"):
        from_dict(tree)
    tree["student"]["kind"] = "llamagen_refining_student"
    assert from_dict(tree).evaluate.methods == ("self_refine_1",)

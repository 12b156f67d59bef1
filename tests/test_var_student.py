"""VAR's student, with and without its teacher, against the original's outputs; what it sees."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method import flow, trajectory
from ddjax.method.codes import nearest_ids
from ddjax.method.guidance import Guided
from ddjax.method.sampling import Drawn, Models, Settings, student_sample
from ddjax.models import var
from ddjax.models.var_trunk import noise_or_data
from tests import drawing, var_golden
from tests.golden import (
    COLDEST,
    GUIDED,
    LOGITS,
    Compiled,
    about,
    arrays,
    assert_all_read,
    assert_close,
    assert_images,
    final,
    log_softmax,
)
from tests.var_golden import (
    GROUPS,
    LINEAR,
    case,
    compiled,
    decode,
    model,
    moved,
    per_scale,
    stepped,
    tokenizer,
)

TEACHER, STUDENT, INVOLVED = "var", "dd_var", "combine_var"
SPLIT, STEPS = about(STUDENT)["split"], about(STUDENT)["steps"]
VARIANTS, SCALE = about(INVOLVED)["variants"], about(INVOLVED)["scale"]


def sampled(a, steps, split=SPLIT, x=None):
    start = x if x is None else Drawn(nearest_ids(x, tokenizer().codebook), jnp.asarray(x))
    return student_sample(
        compiled(STUDENT), tokenizer().codebook, a["noise"], jnp.asarray(a["labels"], jnp.int32),
        steps=steps, split=split, start=start,
    ).x_BLC


def assert_step(a, name, k, split, x):
    """All that the original records of one step, from X_k to the vectors that are returned."""
    x_k = trajectory.x_at(k, x, a["noise"], GROUPS)
    assert_close(x_k, a[f"{name}_x_t"], LOGITS)
    found = compiled(STUDENT)(x_k, k, jnp.asarray(a["labels"], jnp.int32))
    logits, vectors = final(GROUPS, *found, k, x_k, nearest_ids(x_k, tokenizer().codebook))
    assert_close(logits, a[f"{name}_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_tokens"], LOGITS)
    x = sampled(a, (k,), split, x)
    assert_close(x, a[f"{name}_x"], LOGITS)
    return x


@pytest.mark.parametrize("head", [0, 1])
def test_student_sees_earlier_scales_and_itself(head):
    a, labels = case(STUDENT)
    noise, label = jnp.asarray(a["noise"][:1]), labels[:1].repeat(3)
    changed = noise + jnp.eye(30)[..., None]
    found = moved(lambda x: compiled(STUDENT)(x, 0, label)[head], noise, changed)
    scale = GROUPS.of_token
    np.testing.assert_array_equal(found, (scale[:, None] < scale[None]) | np.eye(30, dtype=bool))


def test_levels_and_codebook():
    """The condition is a level before the scales."""
    a, levels = arrays(STUDENT), model(STUDENT).trunk.levels
    np.testing.assert_array_equal(levels.of_token, a["lvl_1L"][0])
    np.testing.assert_array_equal(31 - levels.starts, a["accum_token_length"])
    np.testing.assert_array_equal(var.student_mask(levels), a["attn_bias_for_masking"] == 0)
    np.testing.assert_array_equal(~GROUPS.is_data(jnp.arange(4)), a["noise_mask"])
    np.testing.assert_array_equal(tokenizer().codebook, a["codebook"])


def test_student_layer_by_layer():
    """With two scales as data; the condition counts as data."""
    a, labels = case(STUDENT)

    @jax.jit
    def inside(student, x_k):
        trunk = student.trunk
        rows = student.noise_data_embed.embedding[...]
        is_data = jnp.arange(31)[None] < 1 + GROUPS.starts[2]
        between = [
            noise_or_data(is_data, jax.tree.map(lambda x, i=i: x[i], student.noise_data)(rows))
            for i in range(3)
        ]
        condition, _ = trunk.condition(labels)
        h = trunk.embed(condition, x_k) + noise_or_data(is_data, rows)
        mask = var.student_mask(trunk.levels)
        found, h = var_golden.walk(trunk, h, condition, mask, between)
        del found["block0_attn_out"]
        found["block0_n_d"] = jnp.broadcast_to(between[0], h.shape)
        return found, trunk.logits((h + between[2])[:, 1:], condition)

    found, logits = inside(model(STUDENT), a["t2_x_t"])
    for name, array in found.items():
        assert_close(array, a[f"dbg_t2_{name}"], LOGITS)
    assert_close(logits, a["t2_logits"], LOGITS)


@pytest.mark.parametrize("name", ["t0", "t1", "t2", "t3", "tmix"])
def test_student_at_every_k(name):
    """A pass, what the original makes of it, and the vectors for every split."""
    a, labels = case(STUDENT)
    k, data = jnp.asarray(a[f"{name}_t"], jnp.int32), a["data"]
    np.testing.assert_array_equal(data, a["codebook"][a["data_idx"]])
    x_k = trajectory.x_at(k, data, a["noise"], GROUPS)
    np.testing.assert_array_equal(x_k, a[f"{name}_x_t"])
    logits, vectors = compiled(STUDENT)(x_k, k, labels)
    assert_close(logits, a[f"{name}_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_tokens"], LOGITS)
    logits, vectors = final(GROUPS, logits, vectors, k, x_k, a["data_idx"])
    assert_close(logits, a[f"{name}_final_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_final_tokens"], LOGITS)
    for split in range(5):
        found = sampled(a, (k,), split, data)
        assert_close(found, a[f"{name}_final_seq_split{split}"], LOGITS)


def test_student_when_all_is_data():
    a, labels = case(STUDENT)
    x_k = trajectory.x_at(4, a["data"], a["noise"], GROUPS)
    np.testing.assert_array_equal(x_k, a["t4_x_t"])
    logits, vectors = compiled(STUDENT)(x_k, 4, labels)
    assert_close(logits, a["t4_logits"], LOGITS)
    assert_close(vectors, a["t4_tokens"], LOGITS)


@pytest.mark.parametrize(("name", "steps"), STEPS.items())
def test_student_samples(name, steps):
    a = arrays(STUDENT)
    x = a["noise"]
    for i, k in enumerate(steps):
        x = assert_step(a, f"{name}_s{i}", k, SPLIT, x)
    np.testing.assert_array_equal(sampled(a, steps), x)
    assert_images((decode(x) + 1) / 2, a[f"{name}_images01"])


def test_images_of_any_vectors():
    a = arrays(STUDENT)
    assert_images((decode(a["transfer_in"]) + 1) / 2, a["transfer_img01"])


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_before_and_behind_the_teacher(name):
    a, codes = arrays(INVOLVED), tokenizer().codebook
    (first, stop), split = VARIANTS[name]["teacher"], VARIANTS[name]["split"]
    x = a["noise"]
    if first:
        np.testing.assert_array_equal(a[f"{name}_s0_t"], np.zeros(3))
        x = assert_step(a, f"{name}_s0", 0, split, x)
        x = codes[nearest_ids(x, codes)]
    np.testing.assert_array_equal(x, a[f"{name}_teacher_x_in"])
    drawn = codes[per_scale(a, name + "_teacher_idx_scale{}", range(first, stop))]
    data = jnp.concatenate([x[:, : GROUPS.starts[first]], drawn], axis=1)
    np.testing.assert_array_equal(data, a[f"{name}_teacher_seq"])
    data = np.pad(data, ((0, 0), (0, 30 - GROUPS.starts[stop]), (0, 0)))
    step = f"{name}_s{min(first, 1)}"
    np.testing.assert_array_equal(a[f"{step}_t"], np.full(3, stop))
    x = assert_step(a, step, stop, split, data)
    assert_images((decode(x) + 1) / 2, a[f"{name}_images01"])


@jax.jit
def prefill_without_mask(teacher, condition, ids):
    with mock.patch.object(var, "block_causal_mask", lambda groups, length: None):
        return teacher.prefill(condition, ids)


class WithoutMask(Compiled):
    """As the original runs a prefix: its scales see each other, which the teacher never learned."""

    def prefill(self, condition, ids):
        return prefill_without_mask(self.model, condition, ids)


def drawn_ids(a, name):
    """Ids of the prefix and of the scales that the original's teacher drew."""
    return nearest_ids(jnp.asarray(a[f"{name}_teacher_seq"]), tokenizer().codebook)


@pytest.mark.parametrize("name", VARIANTS)
def test_teacher_involved_samples(name):
    """The whole method, with a prefix run as the original runs it; the teacher draws the best."""
    a, labels = case(INVOLVED)
    (first, stop), split = VARIANTS[name]["teacher"], VARIANTS[name]["split"]
    teacher = WithoutMask(model(TEACHER))
    models = Models(tokenizer(), teacher, compiled(STUDENT))
    settings = Settings((0, 2), split, LINEAR(SCALE, temperature=COLDEST), flow.Solver())
    name_of_way = f"teacher_involved_{first}_{stop}"
    x = drawing.draw(name_of_way, models, settings, jnp.asarray(a["noise"]), labels).x_BLC
    ids = drawn_ids(a, name)
    np.testing.assert_array_equal(x[:, : ids.shape[1]], a[f"{name}_teacher_seq"])
    assert_close(x, a[f"{name}_s{min(first, 1)}_x"], LOGITS)
    wanted = per_scale(a, name + "_teacher_logits_scale{}", range(first, stop))
    found = stepped(Guided(teacher, LINEAR(SCALE)), labels, ids, first)
    assert_close(found, log_softmax(wanted), GUIDED)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prefix_under_the_mask_that_the_teacher_learned(name):
    """For the same tokens."""
    a, labels = case(INVOLVED)
    first, stop = VARIANTS[name]["teacher"]
    found = stepped(Guided(compiled(TEACHER), LINEAR(SCALE)), labels, drawn_ids(a, name), first)
    wanted = per_scale(a, name + "_blockcausal_logits_scale{}", range(first, stop))
    assert_close(found, log_softmax(wanted), GUIDED)


def test_no_array_is_left_out(request):
    assert_all_read(request, STUDENT, INVOLVED)

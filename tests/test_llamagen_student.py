"""LlamaGen's student, with and without its teacher, against the original PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddjax.method import trajectory
from ddjax.method.codes import nearest_ids
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance
from ddjax.method.sampling import Drawn, Models, Settings, student_sample
from tests import drawing, llamagen_golden
from tests.golden import (
    GUIDED,
    LOGITS,
    TABLES,
    about,
    arrays,
    assert_all_read,
    assert_close,
    assert_images,
    doubled,
    final,
    guided,
    log_softmax,
)
from tests.llamagen_golden import compiled, decode, tokenizer

STUDENT, INVOLVED = "dd_llamagen", "combine_llamagen"
GROUPS = Groups((1,) * 16)
SPLIT, STEPS = about(STUDENT)["split"], about(STUDENT)["steps"]
VARIANTS, SCALE = about(INVOLVED)["variants"], about(INVOLVED)["scale"]


def sampled(a, steps, x=None):
    start = x if x is None else Drawn(nearest_ids(x, tokenizer().codebook), jnp.asarray(x))
    return student_sample(
        compiled(STUDENT), tokenizer().codebook, a["noise"], a["labels"], steps=steps, split=SPLIT,
        start=start,
    ).x_BLC


def assert_step(a, name, k, x):
    """All that the original records of one step, from X_k to the vectors that are returned."""
    x_k = trajectory.x_at(k, x, a["noise"], GROUPS)
    assert_close(x_k, a[f"{name}_x_t"], LOGITS)
    ids = nearest_ids(x_k, tokenizer().codebook)
    np.testing.assert_array_equal(ids, a[f"{name}_gt_idx"])
    logits, vectors = final(GROUPS, *compiled(STUDENT)(x_k, k, a["labels"]), k, x_k, ids)
    assert_close(logits, a[f"{name}_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_tokens"], LOGITS)
    x = sampled(a, (k,), x)
    assert_close(x, a[f"{name}_x"], LOGITS)
    return x


@pytest.mark.parametrize("name", [STUDENT, INVOLVED])
def test_codebook(name):
    assert_close(tokenizer().codebook, arrays(name)["codebook"], TABLES)


def test_student_layer_by_layer():
    a = arrays(STUDENT)

    @jax.jit
    def inside(student, x_k, labels):
        trunk = student.trunk
        tokens, valid = trunk.condition(labels)
        h = jnp.concatenate([tokens, student.code_embed(x_k)], axis=1)
        # The class counts as data, behind it there are five tokens.
        is_data = jnp.arange(17) < 6
        h = h + student.noise_data_embed(is_data.astype(jnp.int32))[None]
        found, h = llamagen_golden.walk(trunk, h, valid)
        del found["block0_attn_out"]
        return found, trunk.logits(h[:, 1:])

    found, logits = inside(llamagen_golden.model(STUDENT), a["t5_x_t"], a["labels"])
    for name, array in found.items():
        assert_close(array, a[f"dbg_t5_{name}"], LOGITS)
    assert_close(logits, a["t5_logits"], LOGITS)


@pytest.mark.parametrize("name", ["t0", "t5", "t16", "tmix"])
def test_student_at_every_k(name):
    a = arrays(STUDENT)
    k, data = jnp.asarray(a[f"{name}_t"], jnp.int32), a["data"]
    np.testing.assert_array_equal(data, a["codebook"][a["data_idx"]])
    x_k = trajectory.x_at(k, data, a["noise"], GROUPS)
    np.testing.assert_array_equal(x_k, a[f"{name}_x_t"])
    logits, vectors = compiled(STUDENT)(x_k, k, a["labels"])
    assert_close(logits, a[f"{name}_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_tokens"], LOGITS)
    logits, vectors = final(GROUPS, logits, vectors, k, x_k, a["data_idx"])
    assert_close(logits, a[f"{name}_final_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_final_tokens"], LOGITS)
    assert_close(sampled(a, (k,), data), a[f"{name}_final_x_split6"], LOGITS)


@pytest.mark.parametrize("name, steps", STEPS.items())
def test_student_samples(name, steps):
    a = arrays(STUDENT)
    x = a["noise"]
    for i, k in enumerate(steps):
        x = assert_step(a, f"{name}_s{i}", k, x)
    np.testing.assert_array_equal(sampled(a, steps), x)
    assert_images((decode(x) + 1) / 2, a[f"{name}_images01"])


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_before_and_behind_the_teacher(name):
    a, codes = arrays(INVOLVED), tokenizer().codebook
    first, stop = VARIANTS[name]["teacher"]
    drawn = codes[a[f"{name}_teacher_seq"]]
    drawn = np.pad(drawn, ((0, 0), (0, 16 - stop), (0, 0)))
    steps = [0] * (first > 0) + [stop] * (stop < 16)
    for i, k in enumerate(steps):
        np.testing.assert_array_equal(a[f"{name}_s{i}_t"], np.full(3, k))
        x = assert_step(a, f"{name}_s{i}", k, drawn)
        if k == 0:
            prefix = nearest_ids(x, codes)[:, :first]
            np.testing.assert_array_equal(prefix, a[f"{name}_prefix_idx"])


@pytest.mark.parametrize("name", VARIANTS)
def test_teacher_involved_samples(name):
    a, teacher = arrays(INVOLVED), compiled("llamagen_gpt_c2i")
    (first, stop), interval = VARIANTS[name]["teacher"], VARIANTS[name]["interval"]
    if interval >= 0:
        interval += first  # the original counts from the first token that the teacher draws
    guidance = Guidance(SCALE, interval=interval, top_k=1)
    models = Models(tokenizer(), teacher, compiled(STUDENT))
    settings = Settings((0, 9), SPLIT, guidance, None)
    labels = jnp.asarray(a["labels"])
    name_of_way = f"teacher_involved_{first}_{stop}"
    x = drawing.draw(name_of_way, models, settings, jnp.asarray(a["noise"]), labels).x_BLC
    ids = a[f"{name}_teacher_seq"]
    np.testing.assert_array_equal(x[:, :stop], tokenizer().codebook[ids])
    if stop < 16:
        step = "s1" if first else "s0"
        assert_close(x, a[f"{name}_{step}_x"], LOGITS)
    assert_images((decode(x) + 1) / 2, a[f"{name}_images01"])
    whole = jnp.pad(jnp.concatenate([ids, ids]), ((0, 0), (0, 16 - stop)))
    raw = teacher.logits(whole, doubled(teacher, labels))
    found = guided(teacher, raw, Guidance(SCALE, interval=interval))[:, first:stop]
    assert_close(found, log_softmax(a[f"{name}_teacher_logits"]), GUIDED)


def test_no_array_is_left_out(request):
    assert_all_read(request, STUDENT, INVOLVED)

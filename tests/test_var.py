"""VAR's teacher against the original's outputs; who sees whom; sizes; refinement; fresh models."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.config.schema import TrainSection
from ddjax.method import flow, trajectory
from ddjax.method.groups import Groups
from ddjax.method.guidance import Guidance, Guided, truncate
from ddjax.models import var, var_trunk
from ddjax.models.multiscale import Quantiser
from ddjax.stages import teacher as teacher_stage
from ddjax.storage import model_folder
from ddjax.training import loop
from tests import var_golden
from tests.drawing import keys_of
from tests.golden import (
    COLDEST,
    GUIDED,
    LOGITS,
    MAPS,
    TABLES,
    Compiled,
    about,
    arrays,
    assert_all_read,
    assert_close,
    assert_images,
    doubled,
    guided,
    last,
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

TEACHER = "var"
LABELS = jnp.array([3, 7, 0])


def test_every_block():
    """Inputs, embedding and blocks one by one, in teacher forcing."""
    a, labels = case(TEACHER)
    ids = jnp.asarray(a["idx"][:, :14], jnp.int32)
    mask = var.block_causal_mask(GROUPS, 30)
    np.testing.assert_array_equal(mask, a["attn_bias_for_masking"] == 0)
    np.testing.assert_array_equal(model(TEACHER).trunk.levels.of_token, a["lvl_1L"][0])

    @jax.jit
    def inside(teacher):
        condition, _ = teacher.trunk.condition(labels)
        quantiser = teacher.quantiser
        read = quantiser.inputs(quantiser.maps(quantiser.codebook[ids]))
        h = teacher.trunk.embed(condition, read)
        return read, var_golden.walk(teacher.trunk, h, condition, mask)[0]

    read, found = inside(model(TEACHER))
    assert_close(read, a["x_BLCv_wo_first_l"], MAPS)
    for name, array in found.items():
        assert_close(array, a[f"dbg_{name}"], LOGITS)


def teacher_logits(ids, labels):
    """In a batch of the size that guidance makes, so that one program does for all tests."""
    return compiled(TEACHER).logits(jnp.tile(ids, (2, 1)), jnp.tile(labels, 2))[:3]


def both_halves():
    """Ids and labels, the second half without a condition."""
    a, labels = case(TEACHER)
    return jnp.asarray(np.tile(a["idx"], (2, 1)), jnp.int32), doubled(compiled(TEACHER), labels)


def test_teacher_forced_and_cached_logits():
    a, teacher = arrays(TEACHER), compiled(TEACHER)
    ids, labels = both_halves()
    wanted = np.concatenate([a["logits_cond"], a["logits_null"]])
    raw = stepped(teacher, labels, ids)
    assert_close(teacher.logits(ids, labels), wanted, LOGITS)
    assert_close(raw, wanted, LOGITS)
    assert_close(stepped(teacher, labels, ids, 2), wanted[:, GROUPS.starts[2] :], LOGITS)
    image = (decode(tokenizer().codebook[ids[:3]]) + 1) / 2
    for name, scale in (("cfg1p5", 1.5), ("cfg4", 4.0)):
        found = guided(teacher, raw, LINEAR(scale))
        assert_close(found, log_softmax(per_scale(a, name + "_logits_{}")), GUIDED)
        assert_images(image, a[f"{name}_img01"])  # of given tokens


def test_the_map_while_sampling():
    """After each scale, and what the next reads of it; no step is behind the last scale."""
    a, quantiser = arrays(TEACHER), model(TEACHER).quantiser
    ids, labels = both_halves()
    _, state = compiled(TEACHER).prefill(labels, ids[:, :0])
    maps = []
    for group, (start, stop) in enumerate(itertools.pairwise(GROUPS.starts[:-1])):
        _, state = compiled(TEACHER).step(ids[:, start:stop], group, state)
        maps.append(state.map_BHWC)
    maps.append(quantiser.maps(quantiser.codebook[ids])[-1])
    for group, found in enumerate(maps):
        assert_close(found[:3], last(a[f"infer_f_hat_{group}"]), MAPS)
        read = quantiser.shrink(found[:3], min(group + 1, 3))
        assert_close(read, last(a[f"infer_next_{group}"]).reshape(read.shape), MAPS)


def test_greedy_sampling_and_its_image():
    a, labels = case(TEACHER)
    best = Guided(compiled(TEACHER), LINEAR(1.5, temperature=COLDEST))
    ids = trajectory.sample_ids(best, labels, keys_of(0, 3), trajectory.no_prefix(3))
    np.testing.assert_array_equal(ids, per_scale(a, "greedy_idx_{}"))
    raw = compiled(TEACHER).logits(jnp.tile(ids, (2, 1)), doubled(compiled(TEACHER), labels))
    found = guided(compiled(TEACHER), raw, LINEAR(1.5))
    assert_close(found, log_softmax(per_scale(a, "greedy_logits_{}")), GUIDED)
    assert_images((decode(tokenizer().codebook[ids]) + 1) / 2, a["greedy_img01"])


@pytest.mark.parametrize("name", about(TEACHER)["filt"])
def test_truncation(name):
    a, guidance = arrays(TEACHER), Guidance(**about(TEACHER)["filt"][name])
    found = np.exp(truncate(jnp.asarray(a["filt_logits"]), guidance))
    np.testing.assert_array_equal(found == 0, a[f"filt_probs_{name}"] == 0)
    assert_close(found, a[f"filt_probs_{name}"], TABLES)


def test_teacher_sees_earlier_scales_only():
    ids = jnp.asarray(arrays(TEACHER)["idx"][:1], jnp.int32)
    changed = jnp.where(jnp.eye(30, dtype=bool), (ids + 1) % 64, ids)
    found = moved(lambda ids: teacher_logits(ids, LABELS[:1].repeat(3)), ids, changed)
    scale = GROUPS.of_token
    np.testing.assert_array_equal(found, scale[:, None] < scale[None])


def test_refinement_with_as_many_passes_as_scales_is_exact():
    codes, solver = tokenizer().codebook, flow.Solver(steps=16)
    teacher, start = Guided(compiled(TEACHER), LINEAR(1.5)), jnp.zeros((3, 30), jnp.int32)
    eps = jax.random.normal(jax.random.key(1), (3, 30, 32))
    exact = trajectory.map_noise(teacher, LABELS, eps, codes, solver)
    found = trajectory.refine(teacher, LABELS, eps, codes, solver, start, passes=4)
    np.testing.assert_array_equal(found, exact)
    assert len(np.unique(exact)) > 20


def test_the_flow_map_of_codes_of_any_scale():
    """Frequencies over 10,000 noises are the probabilities; 32 channels, codes far from norm 1."""
    codes, count = 5 + 3 * tokenizer().codebook, 10_000
    p = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (64,)))
    eps = jax.random.normal(jax.random.key(1), (count, 32))
    log_p = jnp.tile(jnp.log(p), (count, 1))
    ids = jax.jit(flow.noise_to_ids, static_argnums=3)(eps, log_p, codes, flow.Solver())
    found = np.bincount(ids, minlength=64) / count
    deviation = np.sqrt(p * (1 - p) / count)
    assert np.all(np.abs(found - p) < 4 * deviation + 1e-3)
    # Of a fair draw the mean absolute error is sqrt(2 / pi) of the standard deviation.
    assert np.abs(found - p).sum() < 1.3 * np.sqrt(2 / np.pi) * deviation.sum()


@functools.cache
def fresh():
    """A quantiser, the fresh teacher that takes it, and the fresh student of that."""
    config = var_trunk.VARConfig(6, 4, 8, 1, 2, 10, (1, 2))

    @jax.jit
    def make():
        quantiser = Quantiser(config.scales, 6, 4, nnx.Rngs(0))
        coder = types.SimpleNamespace(quantiser=quantiser)
        return quantiser, var.VARTeacher.from_tokenizer(config, coder, rngs=nnx.Rngs(1))

    quantiser, source = make()
    start = jax.jit(lambda source: var.VARStudent.from_teacher(source, rngs=nnx.Rngs(2)))
    return quantiser, source, start(source)


def assert_same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_student_starts_from_the_teacher():
    """The condition's level and the scales are the teacher's; the first scale's place is new."""
    _, source, made = fresh()
    for name in ("level_embed", "position_embed"):
        rows, old = getattr(made.trunk, name)[...], getattr(source.trunk, name)[...]
        np.testing.assert_array_equal(np.delete(rows, 1, axis=0), old)
        assert 0.005 < rows[1].std() < 0.05
    for name in ("condition", "code_embed", "start", "blocks", "head_modulation", "head"):
        assert_same(getattr(made.trunk, name), getattr(source.trunk, name))
    assert made.trunk.levels == Groups((1, 1, 4))


def test_training_leaves_the_quantiser_alone():
    """Neither gradient, nor decay, nor averaging moves what a fresh teacher took over."""
    quantiser, model, _ = fresh()
    assert_same(model.quantiser, quantiser)
    settings = TrainSection(steps=3, batch=1, learning_rate=0.1, warmup=0, weight_decay=1.0)
    about = types.SimpleNamespace(label_dropout=0.1)
    state, _ = loop.train_step(
        loop.init_state(jax.tree.map(jnp.copy, model), settings), None,
        {"ids": jnp.arange(5)[None], "condition": jnp.array([3])}, jax.random.key(0),
        jnp.zeros(1, bool), loss=functools.partial(teacher_stage.loss, config=about),
        config=settings,
    )
    assert_same(state.model.quantiser, quantiser)
    for a, b in zip(*map(jax.tree.leaves, (state.ema.quantiser, quantiser)), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), 1)  # averaging rounds
    assert np.abs(state.model.trunk.head.kernel[...] - model.trunk.head.kernel[...]).max() > 0.01


def test_bfloat16_computes_near_float32_with_float32_parameters():
    a, labels = case(TEACHER)
    exact = model(TEACHER)
    config = var_trunk.VARConfig(**{**vars(exact.config), "dtype": "bfloat16"})
    low = model_folder.template("var", config)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(low))
    low = jax.tree.unflatten(jax.tree.structure(low), jax.tree.leaves(exact))
    found = Compiled(low).logits(jnp.asarray(a["idx"], jnp.int32), labels)
    assert found.dtype == jnp.float32
    error = (found - a["logits_cond"]).std() / a["logits_cond"].std()
    assert 1e-4 < error < 0.03  # 2^-8 a rounding


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="width 100 is not a multiple of heads 3"):
        var_trunk.VARConfig(64, 32, 100, 2, 3, 10)
    with pytest.raises(ValueError, match="must rise from 1"):
        var_trunk.VARConfig(64, 32, 96, 2, 3, 10, (2, 3))


def test_no_array_is_left_out(request):
    assert_all_read(request, TEACHER)

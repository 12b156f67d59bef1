"""VAR, teacher and student, against the original's outputs; who sees whom; sizes; refinement."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax import flow, sample, train, trajectory, weights
from ddjax import teacher as teacher_stage
from ddjax.config import Train
from ddjax.groups import Groups
from ddjax.guidance import Guidance, Guided, truncate
from ddjax.methods import Method
from ddjax.models import var, var_trunk
from ddjax.models.multiscale import Quantiser
from tests import var_golden
from tests.golden import GUIDED, IMAGES, LOGITS, Compiled, arrays, assert_close, last

LABELS = jnp.array([3, 7, 0])
GROUPS = Groups((1, 4, 9, 16))
LINEAR = functools.partial(Guidance, schedule="linear")


@functools.cache
def teacher():
    return Compiled(var_golden.teacher())


@functools.cache
def student():
    return Compiled(var_golden.student())


def case(name):
    a = arrays(name)
    labels = jnp.asarray(a["labels"], jnp.int32)
    return a, labels


def per_scale(a, name, scales=range(4)):
    return np.concatenate([a[name.format(s)] for s in scales], axis=1)


def test_every_block():
    """Inputs, embedding and blocks one by one, in teacher forcing."""
    a, labels = case("var")
    ids = jnp.asarray(a["idx"][:, :14], jnp.int32)
    mask = var.block_causal_mask(GROUPS, 30)
    np.testing.assert_array_equal(mask, a["attn_bias_for_masking"] == 0)

    @jax.jit
    def taps(model):
        condition, _ = model.trunk.condition(labels)
        read = model.quantiser.inputs(model.quantiser.maps(model.quantiser.codebook[ids]))
        outputs = [read, model.trunk.embed(condition, read)]
        for i in range(2):
            block = jax.tree.map(lambda x, i=i: x[i], model.trunk.blocks)
            outputs.append(block(outputs[-1], condition, mask, None, None)[0])
        return outputs

    names = ("x_BLCv_wo_first_l", "dbg_embed", "dbg_block0", "dbg_block1")
    for found, name in zip(taps(var_golden.teacher()), names, strict=True):
        assert_close(found, a[name], LOGITS)


def teacher_logits(ids, labels):
    """In a batch of the size that guidance makes, so that one program does for all tests."""
    return teacher().logits(jnp.tile(ids, (2, 1)), jnp.tile(labels, 2))[:3]


@pytest.mark.parametrize("half", ["cond", "null"])
def test_teacher_forcing(half):
    a, labels = case("var")
    labels = labels if half == "cond" else teacher().null(labels)
    found = teacher_logits(jnp.asarray(a["idx"], jnp.int32), labels)
    assert_close(found, a[f"logits_{half}"], LOGITS)


def walk(guided, labels, ids, first=0):
    """Log-probabilities [B, L, V] by prefill with the first scales, then by steps."""
    starts = GROUPS.starts
    log_p, state = guided.prefill(labels, ids[:, : starts[first]])
    pieces = [log_p]
    for group in range(first, GROUPS.count - 1):
        log_p, state = guided.step(ids[:, starts[group] : starts[group + 1]], group, state)
        pieces.append(log_p)
    return jnp.concatenate(pieces, axis=1)


@pytest.mark.parametrize(("name", "scale"), [("cfg1p5", 1.5), ("cfg4", 4.0)])
def test_cached_steps_with_guidance(name, scale):
    a, labels = case("var")
    guided = Guided(teacher(), LINEAR(scale))
    found = walk(guided, labels, jnp.asarray(a["idx"], jnp.int32))
    assert_close(found, jax.nn.log_softmax(per_scale(a, name + "_logits_{}")), GUIDED)


@pytest.mark.parametrize("first", [0, 2])
def test_cached_steps_behind_a_prefix_equal_teacher_forcing(first):
    a, labels = case("var")
    guided, ids = Guided(teacher(), LINEAR(1.5)), jnp.asarray(a["idx"], jnp.int32)
    forced = guided.log_probs(ids, labels)
    assert_close(walk(guided, labels, ids, first), forced[:, GROUPS.starts[first] :], LOGITS)


def test_the_map_while_sampling():
    a, labels = case("var")
    ids = jnp.asarray(a["idx"], jnp.int32)
    _, state = teacher().prefill(jnp.tile(labels, 2), jnp.tile(ids[:, :0], (2, 1)))
    for group in range(3):
        own = slice(GROUPS.starts[group], GROUPS.starts[group + 1])
        _, state = teacher().step(jnp.tile(ids[:, own], (2, 1)), group, state)
        assert_close(state.map_BHWC[:3], last(a[f"infer_f_hat_{group}"]), 5e-6)
        read = var_golden.teacher().quantiser.shrink(state.map_BHWC[:3], group + 1)
        assert_close(read, last(a[f"infer_next_{group}"]).reshape(read.shape), 5e-6)


def test_greedy_sampling_and_its_image():
    a, labels = case("var")
    guided = Guided(teacher(), LINEAR(1.5, top_k=1))
    ids = trajectory.sample_ids(guided, labels, jax.random.key(0), trajectory.no_prefix(3))
    np.testing.assert_array_equal(ids, per_scale(a, "greedy_idx_{}"))
    images = var_golden.decode(var_golden.teacher().quantiser.codebook[ids])
    assert_close((images + 1) / 2, last(a["greedy_img01"]), IMAGES)


@pytest.mark.parametrize(
    ("name", "top_k", "top_p"),
    [("k10", 10, 1.0), ("p095", 0, 0.95), ("k20p08", 20, 0.8), ("k1", 1, 1.0)],
)
def test_truncation(name, top_k, top_p):
    a = arrays("var")
    found = truncate(jnp.asarray(a["filt_logits"]), Guidance(top_k=top_k, top_p=top_p))
    assert_close(np.exp(found), a[f"filt_probs_{name}"], 2e-6)


def moved(run, x, changed):
    """[30, 30]: row p tells which outputs differ where position p was changed; `run` takes 3."""
    wanted = run(jnp.tile(x, (3,) + (1,) * (x.ndim - 1)))
    rows = [np.abs(run(changed[i : i + 3]) - wanted).max(axis=-1) for i in range(0, 30, 3)]
    return np.concatenate(rows) > 1e-5


def test_teacher_sees_earlier_scales_only():
    ids = jnp.asarray(arrays("var")["idx"][:1], jnp.int32)
    changed = jnp.where(jnp.eye(30, dtype=bool), (ids + 1) % 64, ids)
    found = moved(lambda ids: teacher_logits(ids, LABELS[:1].repeat(3)), ids, changed)
    scale = GROUPS.of_token
    np.testing.assert_array_equal(found, scale[:, None] < scale[None])


@pytest.mark.parametrize("head", [0, 1])
def test_student_sees_earlier_scales_and_itself(head):
    noise = jnp.asarray(arrays("dd_var")["noise"][:1])
    found = moved(
        lambda x: student()(x, 0, LABELS[:1].repeat(3))[head], noise, noise + jnp.eye(30)[..., None]
    )
    scale = GROUPS.of_token
    np.testing.assert_array_equal(found, (scale[:, None] < scale[None]) | np.eye(30, dtype=bool))
    mask = var.student_mask(var_golden.student().trunk.levels)
    np.testing.assert_array_equal(mask, arrays("dd_var")["attn_bias_for_masking"] == 0)


@pytest.mark.parametrize("name", ["t0", "t1", "t2", "t3", "tmix"])
def test_student_at_every_k(name):
    a, labels = case("dd_var")
    x, k = jnp.asarray(a[f"{name}_x_t"]), jnp.asarray(a[f"{name}_t"], jnp.int32)
    assert_close(trajectory.x_at(k, a["data"], a["noise"], GROUPS), x, 0)
    logits, vectors = student()(x, k, labels)
    assert_close(logits, a[f"{name}_logits"], LOGITS)
    assert_close(vectors, a[f"{name}_tokens"], LOGITS)
    assert_close(trajectory.x_at(k, x, vectors, GROUPS), a[f"{name}_final_tokens"], LOGITS)
    is_data = np.asarray(GROUPS.is_data(k))
    nearest = flow.nearest_ids(x, a["codebook"])
    np.testing.assert_array_equal(
        nearest[is_data], a[f"{name}_final_logits"].argmax(-1)[is_data]
    )


def test_student_when_all_is_data():
    a, labels = case("dd_var")
    logits, vectors = student()(jnp.asarray(a["t4_x_t"]), 4, labels)
    assert_close(logits, a["t4_logits"], LOGITS)
    assert_close(vectors, a["t4_tokens"], LOGITS)


@pytest.mark.parametrize("split", range(5))
@pytest.mark.parametrize("k", range(4))
def test_split_counts_scales(k, split):
    a, labels = case("dd_var")
    found = sample.student_sample(
        student(), a["codebook"], a["noise"], labels, steps=(k,), split=split, x_BLC=a["data"]
    )
    assert_close(found, a[f"t{k}_final_seq_split{split}"], LOGITS)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("1step", (0,)), ("2step", (0, 2)), ("2step_t1", (0, 1)), ("2step_t3", (0, 3))],
)
def test_samples(name, steps):
    """Step by step, and the images of the last."""
    a, labels = case("dd_var")
    x = a["noise"]
    for i, k in enumerate(steps):
        assert_close(trajectory.x_at(k, x, a["noise"], GROUPS), a[f"{name}_s{i}_x_t"], LOGITS)
        x = sample.student_sample(
            student(), a["codebook"], a["noise"], labels, steps=steps[: i + 1], split=2
        )
        assert_close(x, a[f"{name}_s{i}_x"], LOGITS)
    assert_close((var_golden.decode(x) + 1) / 2, last(a[f"{name}_images01"]), IMAGES)


def test_images_of_any_vectors():
    a = arrays("dd_var")
    assert_close((var_golden.decode(a["transfer_in"]) + 1) / 2, last(a["transfer_img01"]), IMAGES)


def test_teacher_involved_from_the_first_scale():
    """Teacher greedily at scales 0 and 1, then the student: the whole method at once."""
    a, labels = case("combine_var")
    parts = sample.Parts(var_golden.tokenizer(), teacher(), student(), None)
    settings = sample.Settings((0, 2), 2, LINEAR(2.0, top_k=1), flow.Solver(), 10)
    x = sample.draw(
        parts, jnp.asarray(a["noise"]), labels, jax.random.key(0),
        method=Method("teacher_involved", 0, 2), settings=settings,
    )
    assert_close(x[:, :5], a["b_teacher_seq"], 0)
    assert_close(x, a["b_s0_x"], LOGITS)
    assert_close((var_golden.decode(x) + 1) / 2, last(a["b_images01"]), IMAGES)


@pytest.mark.parametrize(
    ("name", "first", "split"), [("a", 1, 2), ("c", 2, 3), ("d", 2, 1)]
)
def test_teacher_involved_behind_a_prefix(name, first, split):
    """Its three parts, each from the original's output of the part before.

    The original runs the prefix without a mask, which its teacher never learned; the logits
    compared here are those of the right mask, for the tokens that it drew.
    """
    a, labels = case("combine_var")
    codes, noise = var_golden.tokenizer().codebook, jnp.asarray(a["noise"])
    draw = functools.partial(sample.student_sample, student(), codes, noise, labels, split=split)
    x = draw(steps=(0,))
    assert_close(x, a[f"{name}_s0_x"], LOGITS)
    ids = flow.nearest_ids(x, codes)
    assert_close(codes[ids], a[f"{name}_teacher_x_in"], 0)

    drawn = per_scale(a, name + "_teacher_idx_scale{}", range(first, 3))
    start = GROUPS.starts[first]
    ids = jnp.concatenate([ids[:, :start], jnp.asarray(drawn, jnp.int32), ids[:, 14:]], axis=1)
    wanted = per_scale(a, name + "_blockcausal_logits_scale{}", range(first, 3))
    found = walk(Guided(teacher(), LINEAR(2.0)), labels, ids, first)[:, : 14 - start]
    assert_close(found, jax.nn.log_softmax(wanted), GUIDED)

    data = np.pad(a[f"{name}_teacher_seq"], ((0, 0), (0, 16), (0, 0)))
    x = draw(steps=(3,), x_BLC=jnp.asarray(data))
    assert_close(x, a[f"{name}_s1_x"], LOGITS)
    assert_close((var_golden.decode(x) + 1) / 2, last(a[f"{name}_images01"]), IMAGES)


def test_refinement_with_as_many_passes_as_scales_is_exact():
    codes, solver = var_golden.tokenizer().codebook, flow.Solver(steps=16)
    guided, start = Guided(teacher(), LINEAR(1.5)), jnp.zeros((3, 30), jnp.int32)
    eps = jax.random.normal(jax.random.key(1), (3, 30, 32))
    exact = trajectory.map_noise(guided, LABELS, eps, codes, solver)
    found = trajectory.refine(guided, LABELS, eps, codes, solver, start, passes=4)
    np.testing.assert_array_equal(found, exact)
    assert len(np.unique(exact)) > 20


def test_the_flow_map_of_codes_of_any_scale():
    """Frequencies over 10,000 noises are the probabilities; 32 channels, codes far from norm 1."""
    codes, count = 5 + 3 * var_golden.tokenizer().codebook, 10_000
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
        source = var.Teacher.from_tokenizer(config, coder, rngs=nnx.Rngs(1))
        return quantiser, source, var.Student.from_teacher(source, rngs=nnx.Rngs(2))

    return make()


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
    settings = Train(steps=3, batch=1, learning_rate=0.1, warmup=0, weight_decay=1.0)
    about = types.SimpleNamespace(label_dropout=0.1)
    state, _ = train.train_step(
        train.init_state(jax.tree.map(jnp.copy, model), settings), None,
        {"ids": jnp.arange(5)[None], "label": jnp.array([3])}, jax.random.key(0),
        jnp.zeros(1, bool), loss=functools.partial(teacher_stage.loss, config=about),
        config=settings,
    )
    assert_same(state.model.quantiser, quantiser)
    assert_same(state.ema.quantiser, quantiser)
    assert np.abs(state.model.trunk.head.kernel[...] - model.trunk.head.kernel[...]).max() > 0.01


def test_bfloat16_computes_near_float32_with_float32_parameters():
    a, labels = case("var")
    exact = var_golden.teacher()
    config = var_trunk.VARConfig(**{**vars(exact.config), "dtype": "bfloat16"})
    low = weights.template("var", config)
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

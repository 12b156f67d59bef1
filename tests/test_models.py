"""The models: who sees whom, scan against a loop, rotary embedding, start from the teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.models import condition_embed, layers, transformer
from ddjax.models.llamagen import LlamaGenStudent, LlamaGenTeacher
from ddjax.models.llamagen_trunk import LlamaGenConfig, causal_mask
from ddjax.models.vq import VQTokenizer, VQTokenizerConfig
from ddjax.runtime import platform

CONFIG = LlamaGenConfig(
    vocab_size=12, code_dim=4, grid=3, width=24, layers=3, heads=2, num_classes=5
)


@functools.cache
def teacher():
    return LlamaGenTeacher(CONFIG, rngs=nnx.Rngs(0))


@functools.cache
def student():
    return LlamaGenStudent(CONFIG, rngs=nnx.Rngs(0))


# Compiled once for all tests.
logits = jax.jit(lambda teacher, ids, condition: teacher.logits(ids, condition))
predict = jax.jit(lambda student, x, k, condition: student(x, k, condition))


def moved(a, b):
    """Which positions [L] differ."""
    return np.abs(np.asarray(a) - np.asarray(b)).max(axis=(0, 2)) > 1e-6


def test_condition_reaches_every_position():
    ids, x = jnp.zeros((1, 9), jnp.int32), jnp.zeros((1, 9, 4))
    a, b = jnp.array([1]), jnp.array([2])
    assert moved(logits(teacher(), ids, a), logits(teacher(), ids, b)).all()
    both = predict(student(), x, 0, a), predict(student(), x, 0, b)
    for one, two in zip(*both, strict=True):
        assert moved(one, two).all()


def test_k_marks_the_first_groups_as_data():
    """Position i feels k only from the first position that k marks on; k may differ by image."""
    x, label = jax.random.normal(jax.random.key(0), (2, 9, 4)), jnp.array([1, 2])
    found = {k: predict(student(), x, k, label)[0] for k in (0, 4, 9)}
    np.testing.assert_array_equal(moved(found[4], found[9]), np.arange(9) >= 4)
    mixed = predict(student(), x, jnp.array([0, 4]), label)[0]
    np.testing.assert_allclose(mixed[0], found[0][0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], found[4][1], atol=1e-6)


def test_scan_equals_a_loop_over_the_blocks():
    model = teacher().trunk.transformer
    h = jax.random.normal(jax.random.key(0), (2, 7, 24))
    rope = jnp.asarray(transformer.rope_table(3, 12, 1))[:7]
    mask = causal_mask(jnp.ones((2, 1), bool), 7, 7)
    looped = h
    for i in range(CONFIG.layers):
        block = jax.tree.map(lambda x, i=i: x[i], model.blocks)
        looped, _ = block(looped, rope, mask, None, 0)
    np.testing.assert_allclose(model(h, rope, mask)[0], looped, rtol=1e-5, atol=1e-5)


def test_blocks_start_different():
    kernels = teacher().trunk.transformer.blocks.mlp.w1.kernel[...]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_student_starts_from_the_teacher():
    source = teacher()
    made = LlamaGenStudent.from_teacher(source, rngs=nnx.Rngs(1))
    for a, b in zip(jax.tree.leaves(made.trunk), jax.tree.leaves(source.trunk), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is not b  # training the one donates its buffers


def test_rope_turns_by_row_and_column():
    """Against complex multiplication; condition tokens vanish; the first token is not turned."""
    table = transformer.rope_table(grid=4, head_width=8, condition_tokens=1)
    assert table.shape == (17, 4, 2)
    x = np.random.default_rng(0).normal(size=(1, 17, 1, 8)).astype(np.float32)
    turned = np.asarray(transformer.apply_rope(jnp.asarray(x), jnp.asarray(table)))
    np.testing.assert_array_equal(turned[0, 0], 0)
    np.testing.assert_array_equal(turned[0, 1], x[0, 1])
    pairs = x[0, 1:, 0, 0::2] + 1j * x[0, 1:, 0, 1::2]
    p = np.arange(16)
    speeds = np.array([1.0, 10000.0**-0.5])
    angles = np.concatenate([(p // 4)[:, None] * speeds, (p % 4)[:, None] * speeds], axis=1)
    wanted = pairs * np.exp(1j * angles)
    np.testing.assert_allclose(turned[0, 1:, 0, 0::2], wanted.real, atol=1e-6)
    np.testing.assert_allclose(turned[0, 1:, 0, 1::2], wanted.imag, atol=1e-6)


def test_bfloat16_computes_near_float32_with_float32_parameters():
    low = LlamaGenConfig(**{**vars(CONFIG), "dtype": "bfloat16"})
    a, b = teacher(), LlamaGenTeacher(low, rngs=nnx.Rngs(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(b))
    ids, label = jax.random.randint(jax.random.key(0), (2, 9), 0, 12), jnp.array([1, 2])
    exact, near = logits(a, ids, label), logits(b, ids, label)
    assert near.dtype == jnp.float32
    assert 1e-4 < np.std(exact - near) / np.std(exact) < 0.03  # 2^-8 a rounding


def test_a_token_decodes_to_its_own_place():
    """Raster order: a token moves the pixels of its own cell most, over 32 random images."""
    config = VQTokenizerConfig(16, 1, 20, 5, 8, (1, 1, 1), 1, 8, 4)
    model = VQTokenizer(config, rngs=nnx.Rngs(0))
    decode = jax.jit(lambda x: model.decode(x))
    x = jax.random.normal(jax.random.key(0), (32, 16, 5))
    for token, (row, column) in {5: (1, 1), 6: (1, 2), 9: (2, 1)}.items():
        change = np.abs(decode(x.at[:, token].add(3.0)) - decode(x))
        cells = change.reshape(32, 4, 4, 4, 4).mean(axis=(0, 2, 4))
        assert np.unravel_index(cells.argmax(), cells.shape) == (row, column)


CAPTIONS = LlamaGenConfig(
    vocab_size=12, code_dim=4, grid=3, width=24, layers=2, heads=2, caption_tokens=4, caption_dim=6
)


def test_a_caption_reaches_every_position_and_its_padding_none():
    """The teacher's logits and both heads of the student; the first two tokens are padding."""

    @jax.jit
    def outputs(features):
        teacher = LlamaGenTeacher(CAPTIONS, rngs=nnx.Rngs(0))
        student = LlamaGenStudent.from_teacher(teacher, rngs=nnx.Rngs(1))
        given = {"features": features, "mask": jnp.array([[0, 0, 1, 1]])}  # as T5 gives it
        ids, x = jnp.zeros((1, 9), jnp.int32), jnp.ones((1, 9, 4))
        return teacher.logits(ids, given), *student(x, 4, given)

    features = jax.random.normal(jax.random.key(0), (1, 4, 6))
    for token, counts in enumerate([False, False, True, True]):
        both = outputs(features), outputs(features.at[:, token].add(1.0))
        for before, after in zip(*both, strict=True):
            np.testing.assert_array_equal(moved(before, after), np.full(9, counts))


def test_the_vector_head_reads_the_mean_of_the_tokens_that_count():
    tokens = jnp.arange(12.0).reshape(1, 4, 3)
    mask = jnp.array([[False, True, False, True]])
    np.testing.assert_array_equal(condition_embed.pooled(tokens, mask), [[[6, 7, 8]]])
    none = jnp.zeros_like(mask)
    np.testing.assert_array_equal(condition_embed.pooled(tokens, none), [[[0, 0, 0]]])


@pytest.mark.parametrize("sizes", [
    {}, {"num_classes": 5, "caption_tokens": 4, "caption_dim": 6}, {"caption_tokens": 4},
])
def test_a_gpt_is_conditioned_on_classes_or_on_captions(sizes):
    with pytest.raises(ValueError, match="either the first or the last two must be above 0"):
        LlamaGenConfig(12, 4, 3, 24, 2, 2, **sizes)


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_a_cpu_is_that_of_accelerators(causal, dtype, near):
    """With more keys than queries, as behind a cache, and a mask for each image."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (2, length, 3, 8), dtype)
        for key, length in zip(keys, (70, 75, 75), strict=True)
    )
    sees = np.arange(75) <= np.arange(70)[:, None] + np.array([0, 5])[:, None, None, None]

    def attend(name):
        with platform.traced_for(name):
            return layers.attention(q, k, v, sees if causal else None, 0.5)

    found, wanted = attend("cpu"), attend("gpu")
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(*(x.astype(jnp.float32) for x in (found, wanted)), atol=near)

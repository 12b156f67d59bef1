"""The student's loss against NumPy, and its gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddjax.config.reading import from_dict
from ddjax.models.classifier import Classifier, ClassifierConfig
from ddjax.models.llamagen import LlamaGenStudent
from ddjax.models.patch_vq import PatchTokenizer
from ddjax.stages import distill_map, pair_generation
from tests import tiny


@functools.cache
def setting(**weights):
    config = from_dict(tiny.get_config().to_dict())
    student = LlamaGenStudent(config.teacher.model, rngs=nnx.Rngs(0))
    frozen = distill_map.Frozen(
        PatchTokenizer(config.tokenizer.model, rngs=nnx.Rngs(1)),
        Classifier(ClassifierConfig(8, 1, 10, 4, 8), rngs=nnx.Rngs(2)),
    )
    index = jnp.arange(100, 104, dtype=jnp.int32)
    batch = {"index": index, "condition": index % 10,
             "ids": jax.random.randint(jax.random.key(3), (4, 16), 0, 16)}
    return config, student, frozen, batch


def with_weights(config, cross_entropy, perceptual):
    section = dataclasses.replace(
        config.distill, cross_entropy=cross_entropy, perceptual=perceptual
    )
    return dataclasses.replace(config, distill=section)


def test_loss_by_hand():
    """k of each image from the key; X_k, cross-entropy and perceptual term one image at a time."""
    config, student, frozen, batch = setting()
    config = with_weights(config, 0.7, 0.3)
    key = jax.random.key(4)
    loss = distill_map.loss_of(config, noise_seed=8)
    value, scalars = jax.jit(loss)(student, frozen, batch, key)
    predict = jax.jit(lambda student, x, k, label: student(x, k, label))
    compare = jax.jit(lambda f, a, b: f.perceptual_net.distance(
        f.tokenizer.decode(a), f.tokenizer.decode(b)))
    k = np.array([0, 5])[np.asarray(jax.random.randint(key, (4,), 0, 2))]
    assert set(k) == {0, 5}
    eps = np.asarray(pair_generation.noise_of(8, batch["index"], 16, 4))
    codes = np.asarray(frozen.tokenizer.codebook)
    nll, distances, equal = [], [], []
    for b in range(4):
        true = codes[batch["ids"][b]]
        x = np.concatenate([true[: k[b]], eps[b, k[b] :]])[None]
        logits, vectors = predict(student, x, int(k[b]), batch["condition"][b : b + 1])
        log_p = jax.nn.log_softmax(logits[0])
        nll += [-log_p[i, batch["ids"][b, i]] for i in range(k[b], 16)]
        equal += [log_p[i].argmax() == batch["ids"][b, i] for i in range(k[b], 16)]
        made = np.concatenate([true[: k[b]], vectors[0, k[b] :]])[None]
        distances.append(compare(frozen, made, true[None])[0])
    assert scalars["cross_entropy"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert scalars["tokens_equal"] == pytest.approx(np.mean(equal), abs=1e-6)
    assert scalars["perceptual"] == pytest.approx(np.mean(distances), rel=1e-4)
    wanted = 0.7 * np.mean(nll) + 0.3 * np.mean(distances)
    assert value == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("weights", "head", "other"), [
    ((1.0, 0.0), "head", "vector_head"), ((0.0, 1.0), "vector_head", "head"),
])
def test_each_loss_trains_its_own_head(weights, head, other):
    config, student, frozen, batch = setting()
    config = with_weights(config, *weights)

    def value(student):
        return distill_map.loss_of(config, noise_seed=0)(
            student, frozen, batch, jax.random.key(0)
        )[0]

    grads = jax.jit(jax.grad(value))(student)
    heads = {"head": grads.trunk.head.kernel, "vector_head": grads.vector_head.linear.kernel}
    assert np.abs(heads[head][...]).max() > 0
    np.testing.assert_array_equal(heads[other][...], 0)
    assert np.abs(grads.code_embed.kernel[...]).max() > 0


def test_perceptual_distance_is_zero_only_for_the_same_image():
    _, _, frozen, _ = setting()
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 1))
    np.testing.assert_allclose(frozen.perceptual_net.distance(a, a), 0, atol=1e-7)
    assert (np.asarray(frozen.perceptual_net.distance(a, b)) > 0.01).all()

"""The tokenizer stage: every kind that is trained here learns, and is what its folder holds."""

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from flax import nnx

from ddjax.config import from_dict
from ddjax.data import datasets
from ddjax.models import straight_through
from ddjax.models.multiscale import Quantiser
from ddjax.runtime import sharding
from ddjax.stages import registry, running, tokenizer
from ddjax.storage import model_folder
from tests import tiny


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_a_tokenizer_learns(kind, tmp_path, capsys):
    """More than the mean picture, which is what a decoder gives that reads no ids."""
    tree = tiny.get_config(kind).to_dict()
    tree["tokenizer"]["train"] |= {"steps": 150, "batch": 32, "learning_rate": 1e-2,
                                   "checkpoint_every": 150}
    if kind != "patch_tokenizer":  # whose loss keeps its codes in use
        tree["tokenizer"]["revive_every"] = 15
    config = from_dict(tree)
    with jax.set_mesh(sharding.make_mesh(1, jax.devices()[:1])):
        running.run(config, tmp_path, registry.STAGES["tokenizer"])
    line = capsys.readouterr().out
    model = model_folder.load(tmp_path / "tokenizer" / "model", kind)
    shown = datasets.load(config.data)["image"]
    error = np.mean((np.asarray(tokenizer.reconstruct(model, shown)) - shown) ** 2)
    # Of a thousand of them.
    assert float(re.search(r"squared error (\S+);", line)[1]) == pytest.approx(error, rel=0.05)
    assert error < 0.75 * np.mean((shown.mean(0, keepdims=True) - shown) ** 2)
    ids = np.load(tmp_path / "tokenizer" / "ids.npy", mmap_mode="r")
    wanted = jax.jit(lambda model, images: model.encode(images))(model, shown)
    assert ids.shape == (1797, wanted.shape[1]) and len(np.unique(ids)) > 8
    np.testing.assert_array_equal(ids[: len(shown)], wanted)


class Line(NamedTuple):
    """Features are `scale` times the image [B, L, D], images are `gain` times the vectors."""

    scale: jax.Array
    gain: jax.Array
    codebook: jax.Array

    def features(self, images):
        return self.scale * images

    def decode(self, vectors):
        return self.gain * vectors

    def autoencode(self, images):
        return straight_through.autoencode(self, images)

    def with_codes(self, codes):
        return self._replace(codebook=codes)


def test_the_loss_and_its_gradient_by_hand():
    rng = np.random.default_rng(0)
    images, codes, scale, gain = rng.normal(size=(3, 4, 2)), rng.normal(size=(5, 2)), 0.8, 1.3
    codes[3] = 9  # nobody's
    features = scale * images
    ids = np.argmin(((features[:, :, None] - codes) ** 2).sum(-1), axis=-1)
    chosen = codes[ids]
    distance = ((features - chosen) ** 2).sum(-1).mean()
    error = gain * chosen - images
    soft = scipy.special.softmax(10 * features @ codes.T, axis=-1)
    single = scipy.stats.entropy(soft, axis=-1).mean()
    overall = scipy.stats.entropy(soft.mean((0, 1)))
    model = Line(*(jnp.asarray(x, jnp.float32) for x in (scale, gain, codes)))

    def loss(model, commitment, entropy):
        config = SimpleNamespace(commitment=commitment, entropy=entropy, perceptual=0.0)
        batch = {"image": jnp.asarray(images, jnp.float32)}
        return tokenizer.loss(model, None, batch, None, config=config)

    value, scalars = loss(model, 0.3, 0.2)
    wanted = (error**2).mean() + 1.3 * distance + 0.2 * (single - overall)
    assert value == pytest.approx(wanted, rel=1e-4)
    assert scalars["squared_error"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert scalars["codes_in_batch"] == len(np.unique(ids)) < 5
    grad = jax.grad(lambda model: loss(model, 0.3, 0.0)[0])(model)
    # Straight through the choice to the encoder, which the codes' own term does not reach.
    through = (2 * error * gain * images).mean()
    committed = 0.3 * (2 * (features - chosen) * images).sum(-1).mean()
    assert grad.scale == pytest.approx(through + committed, rel=1e-4)
    assert grad.gain == pytest.approx((2 * error * chosen).mean(), rel=1e-4)
    pulled = np.zeros_like(codes)
    np.add.at(pulled, ids, 2 * (chosen - features) / ids.size)
    np.testing.assert_allclose(grad.codebook, pulled, rtol=1e-4, atol=1e-6)


def test_the_perceptual_distance_counts_by_its_weight():
    rng = np.random.default_rng(0)
    model = Line(*(jnp.asarray(x, jnp.float32) for x in (0.8, 1.3, rng.normal(size=(5, 2)))))
    batch = {"image": jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32)}
    net = SimpleNamespace(distance=lambda a, b: jnp.abs(a - b).sum((1, 2)))
    values = []
    for weight in (0.0, 0.5):
        config = SimpleNamespace(commitment=0.25, entropy=0.0, perceptual=weight)
        values.append(tokenizer.loss(model, net, batch, None, config=config)[0])
    made = model.autoencode(batch["image"]).image
    distance = np.abs(np.asarray(made - batch["image"])).sum((1, 2)).mean()
    assert values[1] - values[0] == pytest.approx(0.5 * distance, rel=1e-5)


def revived(codes, images, step=0, key=0, every=10, until=100):
    model = Line(jnp.float32(1), jnp.float32(1), jnp.asarray(codes, jnp.float32))
    batch = {"image": jnp.asarray(images, jnp.float32)}
    run = jax.jit(tokenizer.revive, static_argnames=("every", "until"))
    found = run(model, batch, jax.random.key(key), jnp.int32(step), every=every, until=until)
    return np.asarray(found.codebook)


def test_dead_codes_take_the_places_of_features_far_from_all_codes():
    rng = np.random.default_rng(0)
    near = rng.normal(size=(40, 2)) / 100
    far = np.array([[5.0, 0], [0, 5], [-5, 0], [0, -5], [7, 7]])
    images = np.concatenate([near, far]).reshape(3, 15, 2)
    codes = np.concatenate([[[0.0, 0]], np.full((4, 2), 90)])
    found = revived(codes, images)
    np.testing.assert_array_equal(found[0], codes[0])  # in use
    # As good as always one of the far ones: 45 others share a ten-thousandth of the distances.
    assert {tuple(code) for code in found[1:]} <= {tuple(np.float32(one)) for one in far}
    assert len({tuple(code) for code in found[1:]}) == 4


@pytest.mark.parametrize(("step", "changes"), [(0, True), (10, True), (9, False), (100, False)])
def test_codes_are_revived_at_their_steps_alone_and_by_the_key(step, changes):
    rng = np.random.default_rng(0)
    codes, images = rng.normal(size=(8, 2)) + 20, rng.normal(size=(2, 30, 2))
    found = revived(codes, images, step)
    assert (found != np.float32(codes)).any() == changes
    np.testing.assert_array_equal(found, revived(codes, images, step))
    assert (found != revived(codes, images, step, key=1)).any() == changes


def test_more_codes_than_features_can_be_revived():
    images = np.random.default_rng(0).normal(size=(1, 3, 2))
    found = revived(np.full((20, 2), 50.0), images)
    places = {tuple(one) for one in np.float32(images[0])}
    assert {tuple(code) for code in found[1:]} == places


def test_multiscale_codes_are_trained_towards_the_map_at_every_scale():
    quantiser = Quantiser((1, 2, 4), 16, 3, nnx.Rngs(0))
    f, weight = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
    found = jax.jit(lambda q, f: q.quantise(f))(quantiser, f)

    def distance(quantiser):
        """Between the map and the sums of chosen codes, by another way to these."""
        maps = quantiser.maps(quantiser.codebook[found.ids_BL])[1:]
        return sum(jnp.mean((one - f) ** 2) for one in maps) / 3, maps

    (value, maps), wanted = jax.value_and_grad(distance, has_aux=True)(quantiser)
    assert found.codebook == pytest.approx(float(value), rel=1e-5)
    assert found.commitment == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(found.map_BHWC, maps[-1], atol=1e-5)

    def grad(read):
        return jax.grad(lambda q, f: read(q.quantise(f)), argnums=(0, 1))(quantiser, f)

    pulled, nothing = grad(lambda found: found.codebook)
    for ours, theirs in zip(jax.tree.leaves(pulled), jax.tree.leaves(wanted), strict=True):
        assert np.abs(theirs).max() > 1e-4
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert not nothing.any()
    nothing, committed = grad(lambda found: found.commitment)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
    np.testing.assert_allclose(committed, sum(2 * (f - one) for one in maps) / 3 / f.size,
                               atol=1e-6)
    nothing, through = grad(lambda found: (found.map_BHWC * weight).sum())
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
    np.testing.assert_array_equal(through, weight)

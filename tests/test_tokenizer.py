"""The tokenizer stage: every kind that is trained here learns, and is what its folder holds."""

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from ddjax.config import from_dict
from ddjax.data import datasets
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
    config = from_dict(tree)
    with jax.set_mesh(sharding.make_mesh(1, jax.devices()[:1])):
        running.run(config, tmp_path, registry.STAGES["tokenizer"])
    line = capsys.readouterr().out
    model = model_folder.load(tmp_path / "tokenizer" / "model", kind)
    shown = datasets.load(config.data)["image"][:40]
    error = np.mean((np.asarray(tokenizer.reconstruct(model, shown)) - shown) ** 2)
    assert float(re.search(r"squared error (\S+);", line)[1]) == pytest.approx(error, abs=1e-4)
    assert error < 0.75 * np.mean((shown.mean(0, keepdims=True) - shown) ** 2)
    ids = tokenizer.encode(model, shown, batch=16)
    assert ids.shape == (40, 16) and len(np.unique(ids)) > 8
    np.testing.assert_array_equal(ids, model.encode(shown))


class Line(NamedTuple):
    """Features are `scale` times the image [B, L, D], images are `gain` times the vectors."""

    scale: jax.Array
    gain: jax.Array
    codebook: jax.Array

    def features(self, images):
        return self.scale * images

    def decode(self, vectors):
        return self.gain * vectors


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
        config = SimpleNamespace(commitment=commitment, entropy=entropy)
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

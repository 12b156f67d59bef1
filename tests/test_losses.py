"""The losses of teacher and classifier against cases with a known answer."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ddjax.stages import feature_net, teacher
from tests.toy import ToyTeacher


def teacher_loss(model, ids, label, dropout, key=0):
    config = SimpleNamespace(label_dropout=dropout)
    batch = {"ids": ids, "condition": label}
    return teacher.loss(model, None, batch, jax.random.key(key), config=config)[0]


def test_the_teachers_loss_is_the_mean_nats_of_every_token():
    model = ToyTeacher.make((1, 2, 1), 5)
    ids = jax.random.randint(jax.random.key(0), (6, 4), 0, 5)
    label = jnp.arange(6) % 2
    p = np.asarray(jax.nn.softmax(model.logits(ids, label)), np.float64)
    nats = [-np.log(p[b, i, ids[b, i]]) for b in range(6) for i in range(4)]
    assert teacher_loss(model, ids, label, 0.0) == pytest.approx(np.mean(nats), rel=1e-5)


class Knowing:
    """Sure of token 0 with a label, and knows nothing without one."""

    def null(self, condition):
        return jnp.full_like(condition, -1)

    def logits(self, ids, condition):
        sure = jnp.where(condition[:, None, None] >= 0, 50.0, 0.0)
        return sure * jax.nn.one_hot(jnp.zeros_like(ids), 5)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.75])
def test_so_many_labels_are_dropped_each_image_on_its_own(dropout):
    """The share of the images that cost log 5 a token."""
    ids, label = jnp.zeros((20_000, 3), jnp.int32), jnp.zeros(20_000, jnp.int32)
    shares = [teacher_loss(Knowing(), ids, label, dropout, key) / np.log(5) for key in (0, 1)]
    # Four standard deviations.
    atol = 4 * np.sqrt(dropout * (1 - dropout) / 20_000)
    np.testing.assert_allclose(shares, dropout, atol=atol)
    assert (shares[0] != shares[1]) == (dropout > 0)


def test_images_without_classes_are_told_apart_by_their_turns():
    """By a net that sees in which corner the one bright pixel has come to lie."""
    images = jnp.zeros((400, 4, 4, 1)).at[:, 0, 0].set(1)

    def read(images):
        corners = [images[:, row, column, 0] for row, column in ((0, 0), (3, 0), (3, 3), (0, 3))]
        return 100 * jnp.stack(corners[:seen] + [corners[0]] * (4 - seen), axis=-1)

    def accuracy():
        batch = {"image": images, "label": jnp.zeros(400, jnp.int32)}
        return feature_net.loss_of_turns(read, None, batch, jax.random.key(0))[1]["accuracy"]

    seen = 4
    assert accuracy() == 1
    seen = 1  # then it says 0 of all images: a quarter, within four standard deviations
    assert accuracy() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 400))


def test_the_classifiers_loss_by_hand():
    """Of images with noise of a standard deviation of 0.1, which the key chooses."""
    images = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    label = np.array([0, 2, 1, 1, 0])
    kernel = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)

    def read(images):
        return images.reshape(len(images), -1) @ kernel

    def found(key):
        batch = {"image": images, "label": label}
        return feature_net.loss(read, None, batch, jax.random.key(key))

    def by_hand(images):
        log_p = scipy.special.log_softmax(read(np.asarray(images)), axis=-1)
        return -log_p[np.arange(5), label].mean(), (log_p.argmax(-1) == label).mean()

    noise = jax.random.normal(jax.random.key(7), images.shape)
    loss, scalars = found(7)
    wanted, accuracy = by_hand(images + 0.1 * noise)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert scalars["accuracy"] == pytest.approx(accuracy)
    assert found(8)[0] != loss != pytest.approx(by_hand(images)[0], rel=1e-4)

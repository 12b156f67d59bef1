"""The training loop: continues bit-equal, stops at numbers that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from ddjax import data, keys, train
from ddjax.config import Train
from ddjax.errors import UserError
from ddjax.models import classifier
from tests.test_storage import assert_trees_equal

CONFIG = Train(steps=10, batch=4, learning_rate=1e-2, warmup=2, weight_decay=0.1, log_every=1,
               checkpoint_every=3)
SIZES = classifier.ClassifierConfig(4, 1, 3, channels=2, features=4)
SOURCE = {
    "image": np.random.default_rng(0).normal(size=(11, 4, 4, 1)).astype(np.float32),
    "label": np.arange(11, dtype=np.int32) % 3,
}


def loss(model, frozen, batch, key):
    images = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    nll = optax.softmax_cross_entropy_with_integer_labels(model(images), batch["label"])
    return nll.mean() * frozen, {"largest": nll.max()}


def run(directory, loss_fn=loss, config=CONFIG, restore="latest", pictures=None):
    return train.train(
        name="test", directory=directory, kind="classifier",
        init=lambda rngs: classifier.Classifier(SIZES, rngs=rngs), loss=loss_fn,
        frozen=jnp.float32(1), rows=SOURCE, seed=1, config=config, restore=restore,
        pictures=pictures,
    )


def losses(directory):
    """{step: values}: a step done twice has two."""
    events = EventAccumulator(str(directory / "events"), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for event in events.Tensors("loss"):
        found.setdefault(event.step, []).append(float(tensor_util.make_ndarray(event.tensor_proto)))
    return found


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_continues_bit_equal(tmp_path, stop_at):
    """Stopped by an exception inside a picture hook, which comes at every step of a short run."""
    whole = run(tmp_path / "whole")
    calls = []

    def stop(model, frozen):
        calls.append(1)
        if len(calls) == stop_at:
            raise Interrupted
        return {}

    with pytest.raises(Interrupted):
        run(tmp_path / "parts", pictures=stop)
    parts = run(tmp_path / "parts")
    assert_trees_equal(parts, whole)
    wanted, found = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert sorted(wanted) == sorted(found) == list(range(1, 11))
    for step, values in found.items():
        assert set(values) == set(wanted[step])


def test_goes_back_to_the_previous_checkpoint_when_told(tmp_path):
    whole = run(tmp_path / "whole")

    def stop(model, frozen):
        stop.calls += 1
        if stop.calls == 8:
            raise Interrupted
        return {}

    stop.calls = 0
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", pictures=stop)
    assert sorted(p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()) == ["3", "6"]
    assert_trees_equal(run(tmp_path / "parts", restore="previous"), whole)
    assert losses(tmp_path / "parts")[5] == losses(tmp_path / "whole")[5] * 2


def test_a_finished_run_is_read_not_run(tmp_path):
    first = run(tmp_path)

    def never(*_):
        raise AssertionError("trained again")

    assert_trees_equal(run(tmp_path, loss_fn=never), first)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    def bad(model, frozen, batch, key):
        value, scalars = loss(model, frozen, batch, key)
        step_7 = jax.random.fold_in(keys.stream(1, "test"), 7)
        hit = jnp.all(jax.random.key_data(key) == jax.random.key_data(step_7))
        return value + jnp.where(hit, jnp.nan, 0), scalars

    with pytest.raises(UserError, match=r"test: loss is nan at step 7; the last good"):
        run(tmp_path, loss_fn=bad)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "6"]
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_not_finite_names_the_parameter(tmp_path):
    def bad(model, frozen, batch, key):
        value, scalars = loss(model, frozen, batch, key)
        # sqrt has an infinite slope at 0; the value stays finite.
        return value + jnp.sqrt(jnp.sum((model.conv2.kernel[...] * 0) ** 2)), scalars

    with pytest.raises(UserError, match=r"gradient_norm is nan at step 0; .*first at conv2/kernel"):
        run(tmp_path, loss_fn=bad)


def test_one_step_by_hand():
    """Clip, AdamW and EMA against optax called apart, on one step past the warm-up."""
    config = Train(steps=10, batch=4, learning_rate=0.1, warmup=0, clip=0.1, weight_decay=0.2,
                   ema=0.9)
    model = classifier.Classifier(SIZES, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, model)
    batch = {name: array[:4] for name, array in SOURCE.items()}
    key = jax.random.key(3)
    state, scalars = train.train_step(
        train.init_state(model, config), frozen=jnp.float32(1), batch=batch, key=key, loss=loss,
        config=config,
    )
    model = jax.tree.map(jnp.asarray, before)
    grads = jax.grad(lambda m: loss(m, 1.0, batch, jax.random.fold_in(key, 0))[0])(model)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    assert norm > config.clip
    np.testing.assert_allclose(scalars["gradient_norm"], norm, rtol=1e-5)
    for (path, p), g, new, ema in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(grads),
        jax.tree.leaves(state.model), jax.tree.leaves(state.ema), strict=True,
    ):
        g = np.asarray(g) * config.clip / norm
        step = g / (np.abs(g) + 1e-8)  # Adam's first step
        decay = 0.2 * p if "kernel" in str(path) else 0
        np.testing.assert_allclose(new, p - 0.1 * (step + decay), atol=2e-5)
        np.testing.assert_allclose(ema, 0.1 * p + 0.9 * np.asarray(new), atol=2e-5)


def test_learning_rate_warms_up_and_ends_at_zero():
    rate = train.learning_rate(Train(steps=100, batch=1, learning_rate=1.0, warmup=10))
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(55), rate(100)],
                               [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_compiles_once(tmp_path):
    before = train.train_step._cache_size()
    run(tmp_path, loss_fn=functools.partial(loss))  # one that no other test has used
    assert train.train_step._cache_size() == before + 1


def test_batches_are_epochs_in_new_orders():
    batches = data.batches({"row": np.arange(12)}, 4, seed=3)
    epochs = [np.concatenate([batches[e * 3 + i]["row"] for i in range(3)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert not (epochs[0] == epochs[1]).all()
    np.testing.assert_array_equal(data.batches({"row": np.arange(12)}, 4, 3)[7]["row"],
                                  batches[7]["row"])

"""A leader and its follower: whose updates come when, on how many devices, and what is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ddjax.config.schema import TrainSection
from ddjax.data.sources import Arrays
from ddjax.method import keys
from ddjax.models import classifier
from ddjax.runtime import sharding, trees
from ddjax.training import descent, loop
from ddjax.training.following import Followed, Following
from tests.test_storage import assert_trees_equal

CONFIG = TrainSection(steps=7, batch=8, learning_rate=0.1, warmup=2, clip=0.2, ema=0.5,
                      weight_decay=0.1, checkpoint_every=3)
SIZES = classifier.ClassifierConfig(4, 1, 3, channels=2, features=4)
SOURCE = {"image": np.random.default_rng(0).normal(size=(24, 4, 4, 1)).astype(np.float32)}


def net(seed):
    return classifier.Classifier(SIZES, rngs=nnx.Rngs(seed))


def apart(model, beside, batch, key, sign):
    """Logits of two nets on noisy images; the follower (sign 1) seeks the leader, who flees."""
    images = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    away = jnp.mean((model(images) - beside.other(images)) ** 2)
    return sign * away * beside.frozen, {"drawn": jax.random.uniform(key)}


lead = functools.partial(apart, sign=-1)
FOLLOW = Following(functools.partial(apart, sign=1), updates=3, rate=0.5)


def step(state, follow=FOLLOW):
    return loop.train_step(
        state, jnp.float32(1), {"image": jnp.asarray(SOURCE["image"][:8])}, jax.random.key(3),
        jnp.zeros(1, bool), loss=lead, config=CONFIG, follow=follow,
    )


def test_a_step_by_hand():
    """Three updates of the follower behind the leader, then one of the leader, optax apart."""
    batch, key = {"image": jnp.asarray(SOURCE["image"][:8])}, jax.random.key(3)
    state = loop.init_state(Followed(net(0), net(1)), CONFIG)
    leader, follower = net(0), net(1)
    rate, drawn, ema = descent.learning_rate(CONFIG), [], net(0)

    def optimizer(factor, per_step):
        return optax.chain(
            optax.clip_by_global_norm(CONFIG.clip),
            optax.adamw(lambda n: factor * rate(n // per_step), b2=CONFIG.b2,
                        weight_decay=CONFIG.weight_decay,
                        mask=lambda tree: jax.tree_util.tree_map_with_path(
                            lambda path, _: "kernel" in str(path), tree)),
        )

    leads, follows = optimizer(1, 1), optimizer(0.5, 3)
    lead_state, follow_state = leads.init(leader), follows.init(follower)
    for n in range(3):
        own = jax.random.split(jax.random.fold_in(key, n), 4)
        losses = []
        for one in own[1:]:
            value, grads = jax.value_and_grad(
                lambda f, one=one, leader=leader: jnp.mean(
                    (f(noisy(batch, one)) - leader(noisy(batch, one))) ** 2)
            )(follower)
            updates, follow_state = follows.update(grads, follow_state, follower)
            follower = optax.apply_updates(follower, updates)
            losses.append(float(value))
        grads = jax.grad(
            lambda m, follower=follower, own=own: -jnp.mean(
                (m(noisy(batch, own[0])) - follower(noisy(batch, own[0]))) ** 2)
        )(leader)
        updates, lead_state = leads.update(grads, lead_state, leader)
        leader = optax.apply_updates(leader, updates)
        ema = optax.incremental_update(leader, ema, 1 - min(0.5, (1 + n) / (10 + n)))
        state, scalars = step(state)
        np.testing.assert_allclose(scalars["follower_loss"], np.mean(losses), rtol=1e-4)
        drawn.append(float(scalars["drawn"]))
    for found, wanted in ((state.model.leader, leader), (state.model.follower, follower),
                          (state.ema, ema)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(set(drawn)) == 3  # each step has keys of its own


def noisy(batch, key):
    return batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)


def train(directory, **options):
    return loop.train(
        name="test", directory=directory, kind="classifier",
        init=lambda rngs: Followed(classifier.Classifier(SIZES, rngs=rngs), net(1)), loss=lead,
        frozen=jnp.float32(1), source=Arrays(SOURCE), seed=1, config=CONFIG, follow=FOLLOW,
        **options,
    )


class Interrupted(Exception):
    pass


def test_continues_bit_equal_and_keeps_the_leaders_average(tmp_path):
    """Both models and both optimizers are in the checkpoint of step 3."""
    whole, calls = train(tmp_path / "whole"), iter(range(9))

    def stop(model):
        if next(calls) == 4:
            raise Interrupted
        return {}

    with pytest.raises(Interrupted):
        train(tmp_path / "parts", pictures=stop)
    assert_trees_equal(train(tmp_path / "parts"), whole)
    assert isinstance(whole, classifier.Classifier)
    first = classifier.Classifier(SIZES, rngs=nnx.Rngs(keys.stream(1, "test.init")))
    assert jax.tree.structure(whole) == jax.tree.structure(first)


def test_norms_are_in_the_order_of_the_parameters():
    """By which the loop names the first gradient that is not finite."""
    state = loop.init_state(Followed(net(0), net(1)), CONFIG)
    names = list(trees.flatten(state.model))
    still = FOLLOW._replace(loss=lambda *args: (0 * apart(*args, sign=1)[0], {}))
    norms = step(state, follow=still)[1]["gradient_norms"]
    for name, norm in zip(names, norms, strict=True):
        assert name.startswith("follower" if norm == 0 else "leader")


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "accumulate"), [(1, 1), (4, 1), (2, 2)])
def test_devices_share_it(fsdp, accumulate):
    """Eight devices, or a batch in parts, make the step of one device and of the same parts."""
    config = TrainSection(**{**vars(CONFIG), "accumulate": accumulate, "batch": 16})
    rows = {"image": np.resize(SOURCE["image"], (16, 4, 4, 1))}
    found = []
    for devices, cut in ((1, 1), (8, fsdp)):
        with jax.set_mesh(sharding.make_mesh(cut, jax.devices()[:devices])):
            state = loop.init_state(Followed(net(0), net(1)), config)
            frozen = sharding.replicate(jnp.float32(1))
            for _ in range(2):
                state, _ = loop.train_step(
                    state, frozen, sharding.shard_batch(rows, 16), jax.random.key(3),
                    sharding.shard_batch(np.zeros(devices, bool), devices),
                    loss=lead, config=config, follow=FOLLOW,
                )
            found.append([np.asarray(leaf) for leaf in jax.tree.leaves(state)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)

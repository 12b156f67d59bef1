"""The training loop: continues bit-equal, stops at numbers that are not finite."""

import contextlib
import dataclasses
import functools
import gzip
import json
import signal
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from ddjax.config.reading import from_dict
from ddjax.config.schema import TrainSection
from ddjax.data import batches as data_batches
from ddjax.data.sources import Arrays
from ddjax.method import keys
from ddjax.models import classifier
from ddjax.runtime import flops, hosts, preemption
from ddjax.runtime.errors import UserError
from ddjax.stages import feature_net
from ddjax.storage import checkpoint
from ddjax.training import descent, health, loop, throughput
from tests import tiny
from tests.test_storage import assert_trees_equal

CONFIG = TrainSection(steps=10, batch=4, learning_rate=1e-2, warmup=2, weight_decay=0.1,
                      log_every=1, checkpoint_every=3)
SIZES = classifier.ClassifierConfig(4, 1, 3, channels=2, features=4)
SOURCE = {
    "image": np.random.default_rng(0).normal(size=(11, 4, 4, 1)).astype(np.float32),
    "label": np.arange(11, dtype=np.int32) % 3,
}


def loss(model, frozen, batch, key):
    images = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    nll = optax.softmax_cross_entropy_with_integer_labels(model(images), batch["label"])
    return nll.mean() * frozen, {"largest": nll.max()}


def run(directory, loss_fn=loss, config=CONFIG, **options):
    return loop.train(
        name="test", directory=directory, kind="classifier",
        init=lambda rngs: classifier.Classifier(SIZES, rngs=rngs), loss=loss_fn,
        frozen=jnp.float32(1), source=Arrays(SOURCE), seed=1, config=config, **options,
    )


def events(directory, tag):
    """{step: values}: a step done twice has two."""
    events = EventAccumulator(str(directory / "events"), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for event in events.Tensors(tag):
        found.setdefault(event.step, []).append(float(tensor_util.make_ndarray(event.tensor_proto)))
    return found


def losses(directory):
    return events(directory, "loss")


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_continues_bit_equal(tmp_path, stop_at):
    """Stopped by an exception inside a picture hook, which comes at every step of a short run."""
    whole = run(tmp_path / "whole")
    calls = []

    def stop(model):
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

    def stop(model):
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


@pytest.mark.parametrize("stop_at", [5, 8])
def test_going_back_is_for_what_was_there_before(tmp_path, stop_at):
    """A training that began under restore=previous goes on from its latest checkpoint."""
    whole = run(tmp_path / "whole")
    calls = iter(range(stop_at))

    def stop(model):
        if next(calls) == stop_at - 1:
            raise Interrupted
        return {}

    with pytest.raises(Interrupted):
        run(tmp_path / "parts", restore="previous", pictures=stop)
    assert_trees_equal(run(tmp_path / "parts", restore="previous"), whole)
    assert max(map(len, losses(tmp_path / "parts").values())) <= 2
    assert not any((tmp_path / "parts" / "checkpoints_aside").iterdir())


def test_a_checkpoint_that_memory_is_short_for_is_not_set_aside(tmp_path, monkeypatch):
    state = {"a": jnp.arange(3.0)}
    with contextlib.closing(checkpoint.Checkpoints(tmp_path / "checkpoints", 2)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        (tmp_path / "checkpoints_aside").mkdir()  # as after going back

        def no_memory(*args, **options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        monkeypatch.setattr(checkpoints._manager, "restore", no_memory)
        for which in ("latest", "previous"):
            with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
                checkpoints.restore(state, which)
    assert not any((tmp_path / "checkpoints_aside").iterdir())


def test_nets_that_compare_images_go_back_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda **options: options["restore"])
    config = from_dict({**tiny.get_config().to_dict(), "restore": "previous"})
    section = config.evaluate.features
    found = feature_net.load("net", "evaluate.features", tmp_path, "net", section, config)
    assert found == "previous"


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


def terminate_at(step):
    """A picture hook, which comes after every step, that sends SIGTERM after one of them."""
    calls = []

    def terminate(model):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGTERM)
        return {}

    return terminate


@pytest.mark.parametrize("stop_at", [1, 5])
def test_sigterm_saves_a_checkpoint_and_goes_on_bit_equal(tmp_path, stop_at):
    whole = run(tmp_path / "whole")
    with pytest.raises(preemption.Preempted):
        run(tmp_path / "parts", pictures=terminate_at(stop_at))
    saved = {int(path.name) for path in (tmp_path / "parts" / "checkpoints").iterdir()}
    assert stop_at <= max(saved) <= stop_at + 3
    assert sorted(losses(tmp_path / "parts")) == list(range(1, max(saved) + 1))
    assert_trees_equal(run(tmp_path / "parts"), whole)
    steps = losses(tmp_path / "parts")
    assert steps == losses(tmp_path / "whole")  # no step was done twice


def test_sigterm_after_the_last_step_keeps_the_model(tmp_path):
    with pytest.raises(preemption.Preempted):
        run(tmp_path, pictures=terminate_at(10))
    assert (tmp_path / "model").exists()


def test_a_save_that_was_cut_off_is_passed_over(tmp_path):
    """What a SIGKILL amid a save leaves: a folder without its final name, half full."""
    whole = run(tmp_path / "whole")
    with pytest.raises(preemption.Preempted):
        run(tmp_path / "parts", pictures=terminate_at(5))
    checkpoints = tmp_path / "parts" / "checkpoints"
    last = max(checkpoints.iterdir(), key=lambda path: int(path.name))
    assert last.name == "6"
    cut = last.rename(checkpoints / f"{last.name}.orbax-checkpoint-tmp")
    for path in (cut / "arrays").glob("*"):
        if path.is_file():
            path.unlink()
    assert_trees_equal(run(tmp_path / "parts"), whole)
    assert sorted(losses(tmp_path / "parts")) == list(range(1, 11))
    assert len(losses(tmp_path / "parts")[4]) == 2  # from 3 on again


def test_a_spike_of_the_gradient_is_told():
    """Above 10 times the median of the last 100 norms, once there are 20."""
    written = []
    watched = health.Health("test", ["w"], mock.Mock(
        write_scalars=lambda step, scalars: written.append((step, scalars))
    ))
    norms = [50.0] + [1.0] * 18 + [40.0] + [10.0, 10.1] + [2.0] * 101 + [20.1]
    for step, norm in enumerate(norms):
        scalars = {"loss": 0.0, "gradient_norm": norm, "gradient_norms": np.array([norm]),
                   "stop": np.array(False)}
        watched.put(step, scalars)
    assert watched.flush() == {"loss": 0.0, "gradient_norm": 20.1}
    assert written == [(22, {"gradient_norm_spike": 10.1}), (124, {"gradient_norm_spike": 20.1})]


def test_a_process_that_is_not_the_first_writes_no_events(tmp_path, monkeypatch):
    """Nor does it import TensorFlow, in seconds, for what it does not write."""
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    monkeypatch.setitem(sys.modules, "clu", None)
    run(tmp_path, config=dataclasses.replace(CONFIG, steps=3),
        pictures=lambda model: {"grey": np.zeros((2, 2, 1))})
    assert not (tmp_path / "events").exists()


def test_spikes_of_a_run_are_events_and_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(health, "SPIKE", 0.0)
    monkeypatch.setattr(health, "ENOUGH", 8)
    run(tmp_path)
    norms, spikes = (events(tmp_path, f"gradient_norm{end}") for end in ("", "_spike"))
    assert spikes == {step: norms[step] for step in (9, 10)}
    assert "test: gradient norm" in capsys.readouterr().err


def test_throughput(monkeypatch):
    clock = iter([0.0, 100.0, 107.0, 110.0, 111.0, 120.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    measured = throughput.Throughput(batch=6, flops=30.0, peak=12.0)
    assert measured.report(4) == {}
    assert measured.wait_for(iter("a")) == "a"
    assert measured.wait_for(iter("b")) == "b"
    assert measured.report(9) == pytest.approx({
        "seconds_per_step": 24.0, "data_wait_per_step": 8 / 5, "images_per_second": 0.25,
        "model_flop_utilisation": 30 / 24 / 12,
    })


def test_utilisation_counts_the_operations_of_the_loss_and_its_gradient(tmp_path):
    run(tmp_path)
    found = [events(tmp_path, tag) for tag in ("model_flop_utilisation", "seconds_per_step")]
    assert [sorted(steps) for steps in found] == [list(range(2, 11))] * 2
    model = classifier.Classifier(SIZES, rngs=nnx.Rngs(0))
    batch = {name: array[:4] for name, array in SOURCE.items()}
    grad = jax.grad(lambda model: loss(model, 1.0, batch, jax.random.key(0))[0])
    wanted = flops.count(grad, model) / flops.peak()[0]
    for step in range(2, 11):
        np.testing.assert_allclose(found[0][step][0] * found[1][step][0], wanted, rtol=1e-5)


def test_the_steps_asked_for_are_traced(tmp_path):
    run(tmp_path, profile=(4, 7))
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    content = json.loads(gzip.decompress(trace.read_bytes()))
    steps = {int(event["args"]["step_num"]) for event in content["traceEvents"]
             if event.get("name") == "train"}
    assert steps == {4, 5, 6}


def test_one_step_by_hand():
    """Clip, AdamW and EMA against optax called apart, on one step past the warm-up."""
    config = TrainSection(steps=10, batch=4, learning_rate=0.1, warmup=0, clip=0.1,
                          weight_decay=0.2, ema=0.9)
    model = classifier.Classifier(SIZES, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, model)
    batch = {name: array[:4] for name, array in SOURCE.items()}
    key = jax.random.key(3)
    state, scalars = loop.train_step(
        loop.init_state(model, config), frozen=jnp.float32(1), batch=batch, key=key,
        stop=jnp.zeros(1, bool), loss=loss, config=config,
    )
    model = jax.tree.map(jnp.asarray, before)
    grads = jax.grad(lambda m: loss(m, 1.0, batch, jax.random.fold_in(key, 0))[0])(model)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    assert norm > config.clip
    np.testing.assert_allclose(scalars["gradient_norm"], norm, rtol=1e-5)
    adam = state.opt_state[1][0]
    for (path, p), g, new, ema, mu, nu in zip(
        jax.tree_util.tree_flatten_with_path(before)[0],
        *map(jax.tree.leaves, (grads, state.model, state.ema, adam.mu, adam.nu)), strict=True,
    ):
        g = np.asarray(g) * config.clip / norm
        np.testing.assert_allclose(mu, 0.1 * g, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(nu, (1 - config.b2) * g**2, rtol=1e-4, atol=1e-12)
        step = g / (np.abs(g) + 1e-8)  # Adam's first step
        decay = 0.2 * p if "kernel" in str(path) else 0
        np.testing.assert_allclose(new, p - 0.1 * (step + decay), atol=2e-5)
        np.testing.assert_allclose(ema, 0.1 * p + 0.9 * np.asarray(new), atol=2e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_each_part_of_a_batch_has_a_key_of_its_own(parts):
    """The mean of squares is the square of the mean only where all draws are the same."""
    config = TrainSection(steps=10, batch=4, learning_rate=0.1, warmup=0, accumulate=parts)

    def chance(model, frozen, batch, key):
        drawn = jax.random.uniform(key) + 0 * model.conv1.kernel[...].sum()
        return drawn**2, {"drawn": drawn}

    found = []
    for step in (0, 1):
        state = loop.init_state(classifier.Classifier(SIZES, rngs=nnx.Rngs(0)), config)
        _, scalars = loop.train_step(
            state._replace(step=jnp.int32(step)), frozen=None, batch={"image": SOURCE["image"][:4]},
            key=jax.random.key(3), stop=jnp.zeros(1, bool), loss=chance, config=config,
        )
        found.append((float(scalars["drawn"]), float(scalars["loss"])))
        variance = scalars["loss"] - scalars["drawn"] ** 2
        assert (variance > 1e-4) == (parts > 1)
    assert found[0] != found[1]  # and each step others


def test_learning_rate_warms_up_and_ends_at_zero():
    rate = descent.learning_rate(TrainSection(steps=100, batch=1, learning_rate=1.0, warmup=10))
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(55), rate(100)],
                               [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_compiles_once(tmp_path):
    before = loop.train_step._cache_size()
    run(tmp_path, loss_fn=functools.partial(loss))  # one that no other test has used
    assert loop.train_step._cache_size() == before + 1


def test_batches_are_epochs_in_new_orders():
    batches = data_batches.batches(Arrays({"row": np.arange(12)}), 4, seed=3)
    epochs = [np.concatenate([batches[e * 3 + i]["row"] for i in range(3)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert not (epochs[0] == epochs[1]).all()
    again = data_batches.batches(Arrays({"row": np.arange(12)}), 4, 3)
    np.testing.assert_array_equal(again[7]["row"], batches[7]["row"])

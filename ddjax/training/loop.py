"""Training loop shared by tokenizer, teacher, student and classifiers.

A run is a pure function of its config: batch i depends on the seed and i, and the key of step i is
fold_in(key, i). Killed anywhere and started again, it goes on from its last checkpoint and ends
with bit-identical weights.
"""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddjax.config.schema import TrainSection
from ddjax.data import batches
from ddjax.data.sources import Source
from ddjax.method import keys
from ddjax.method.protocols import Network
from ddjax.runtime import flops, hosts, preemption, progress, sharding, trees
from ddjax.runtime.errors import UserError
from ddjax.storage import checkpoint, model_folder
from ddjax.training import descent, events, following, profiling
from ddjax.training.descent import Loss
from ddjax.training.following import Following
from ddjax.training.health import Health
from ddjax.training.throughput import Throughput
from ddjax.training.validation import Curve, Validation

if TYPE_CHECKING:
    import grain

# (model, batch, key, step) -> model: a change of the model that no gradient makes
Revise = Callable[[Network, dict[str, jax.Array], jax.Array, jax.Array], Network]
# averaged model -> images by name, each [H, W, channels] in [0, 1]
Pictures = Callable[[Network], dict[str, np.ndarray]]

PICTURES_IN_A_RUN = 10


class State(NamedTuple):
    """All that changes while training."""

    step: jax.Array
    model: Network
    ema: Network
    opt_state: optax.OptState


def check_batch(name: str, config: TrainSection, devices: int) -> None:
    """Refuse a batch that the devices cannot share.

    Raises:
      UserError: names the training and batches that would do.
    """
    shares = config.accumulate * devices
    if config.batch % shares:
        parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
        raise UserError(
            f"{name}: train.batch {config.batch}{parts} cannot be shared by {devices} devices; "
            f"make it a multiple of {shares}, such as {-(-config.batch // shares) * shares}"
        )


@functools.partial(jax.jit, static_argnames="config")
def first_state(model: Network, config: TrainSection) -> State:
    """Step 0 of a model that is sharded over the current mesh."""
    # The average starts as a copy, since the step's buffers are donated.
    ema = jax.tree.map(jnp.copy, following.leader(model))
    opt_state = following.first(model, config)
    state = State(jnp.zeros((), jnp.int32), model, ema, opt_state)
    return sharding.constrain(state, model.layout)


def init_state(model: Network, config: TrainSection) -> State:
    """Step 0 of any model, sharded over the current mesh."""
    return first_state(sharding.shard(model, model.layout), config)


@functools.partial(
    jax.jit, static_argnames=("loss", "config", "revise", "follow"), donate_argnames="state"
)
def train_step(
    state: State,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    stop: jax.Array,
    *,
    loss: Loss,
    config: TrainSection,
    revise: Revise | None = None,
    follow: Following | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """One update.

    Args:
      state: its buffers are used up.
      frozen: see `train`.
      batch: rows over all devices.
      key: of the training; each step makes its own of it.
      stop: [devices] bool, whether its process is to stop; all learn it at the same step.
      loss: see `Loss`.
      config: hyper-parameters.
      revise: see `Revise`; applied after the optimizer.
      follow: how the follower is trained, where the model has one.

    Returns:
      the new state, and scalars, with "gradient_norms" [leaves] and "stop" beside them.
    """
    step_key = jax.random.fold_in(key, state.step)
    update = functools.partial(following.update, follow=follow) if follow else descent.update
    model, opt_state, scalars, norms = update(
        state.model, state.opt_state, frozen, batch, step_key, loss=loss, config=config
    )
    if revise is not None:
        model = revise(model, batch, jax.random.fold_in(step_key, 1), state.step)
    decay = jnp.minimum(config.ema, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(following.leader(model), state.ema, 1 - decay)
    scalars = {
        **scalars,
        "gradient_norm": jnp.linalg.norm(norms),
        "learning_rate": descent.learning_rate(config)(state.step),
        "gradient_norms": norms,
        "stop": jnp.any(stop),
    }
    state = State(state.step + 1, model, ema, opt_state)
    return sharding.constrain(state, model.layout), scalars


def train(
    *,
    name: str,
    directory: Path,
    kind: str,
    init: Callable[[nnx.Rngs], Network],
    loss: Loss,
    frozen: Any,
    source: Source,
    seed: int,
    config: TrainSection,
    restore: str = "latest",
    profile: tuple[int, ...] = (),
    pictures: Pictures = lambda model: {},
    validation: Validation | None = None,
    encode: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch,
    revise: Revise | None = None,
    follow: Following | None = None,
) -> Network:
    """Train a model, or continue, or read it if it is finished.

    Returns the averaged model, of the last step or of the best validation.

    Args:
      name: shown on the progress bar; names the streams of randomness.
      directory: gets `model/` (averaged weights, at last), `checkpoints/`, `events/`, `profile/`,
        `validation.json`.
      kind: of `ddjax.models.MODELS`, for the model folder.
      init: makes the model that training starts from.
      loss: see `Loss`; must not change between calls, it is a static argument of the step.
      frozen: pytree that the loss reads and nothing updates.
      source: the examples.
      seed: of the order of the examples, of the initial weights and of the loss.
      config: hyper-parameters.
      restore: "latest" or "previous" checkpoint.
      profile: steps to trace, [start, stop); none if empty.
      pictures: for TensorBoard.
      validation: how the averaged model is judged on the way, if it is.
      encode: makes what the loss reads of a batch on the devices, outside the gradient.
      revise: see `Revise`; none by default.
      follow: where `init` makes a model that has a follower (`ddjax.training.following`); its
        leader is what is averaged and kept.

    Raises:
      UserError: a loss or gradient is not finite (names step and metric; the last good checkpoint
        stays), a checkpoint is damaged, the devices cannot share a batch, or a validation curve was
        measured otherwise.
      Preempted: SIGTERM or Ctrl-C came; a checkpoint was saved.
    """
    if (directory / "model").exists():
        return model_folder.load(directory / "model")
    check_batch(name, config, sharding.devices())
    iterator = batches.iterate(source, config.batch, seed)
    state = init_state(init(nnx.Rngs(keys.stream(seed, f"{name}.init"))), config)
    step_fn = functools.partial(
        train_step, frozen=frozen, key=keys.stream(seed, name), loss=loss, config=config,
        revise=revise, follow=follow,
    )
    throughput = _throughput(step_fn, state, source, config.batch, encode)
    with (
        contextlib.closing(iterator),
        contextlib.closing(events.writer(directory / "events")) as writer,
        contextlib.closing(checkpoint.Checkpoints(directory / "checkpoints", config.keep))
        as checkpoints,
    ):
        state = _resume(state, iterator, checkpoints, restore)
        health = Health(name, list(trees.flatten(state.model)), writer)
        trace = profiling.Trace(directory / "profile", profile)
        with preemption.deferred() as notice, trace:
            curve = Curve(directory, kind, validation, int(state.step), config.steps)
            hooks = Hooks(checkpoints, writer, health, throughput, trace, notice, encode, curve)
            state = _loop(name, state, iterator, step_fn, config, hooks, pictures)
            model = curve.chosen(state.ema)
            model_folder.save(directory / "model", kind, model)
            curve.clear()
    return model


def _resume(
    state: State,
    iterator: grain.DatasetIterator,
    checkpoints: checkpoint.Checkpoints,
    restore: str,
) -> State:
    """The state of a checkpoint, to which it sets the iterator too; the given one without."""
    restored = checkpoints.restore(state, restore)
    if restored is not None:
        state, position = restored
        iterator.set_state(position)
    return state


def _throughput(
    step_fn: Callable, state: State, source: Source, size: int, encode: Callable
) -> Throughput:
    rows = source.take(sharding.local_rows(size) % len(source))
    operations = flops.count(
        step_fn, state, batch=encode(sharding.shard_batch(rows, size)), stop=_flags(False)
    )
    peak, _ = flops.peak()
    return Throughput(size, operations, sharding.devices() * peak)


def _flags(stop: bool) -> jax.Array:
    """[devices] bool, of which each process fills its own."""
    devices = sharding.devices()
    return sharding.shard_batch(np.full(len(sharding.local_rows(devices)), stop), devices)


class Hooks(NamedTuple):
    """What goes along with the loop."""

    checkpoints: checkpoint.Checkpoints
    events: Any
    health: Health
    throughput: Throughput
    trace: profiling.Trace
    notice: preemption.Notice
    encode: Callable[[dict[str, Any]], dict[str, Any]]
    curve: Curve


def _loop(
    name: str,
    state: State,
    iterator: grain.DatasetIterator,
    step_fn: Callable,
    config: TrainSection,
    hooks: Hooks,
    pictures: Pictures,
) -> State:
    begin, health, events = int(state.step), hooks.health, hooks.events
    go_on, stop = _flags(False), _flags(True)
    bar = progress.bar(range(begin, config.steps), name, config.steps, begin)
    for step in bar:
        with hooks.trace.step(step, state):
            rows = hooks.throughput.wait_for(iterator)
            batch = hooks.encode(sharding.shard_batch(rows, config.batch))
            stop_now = stop if hooks.notice.received else go_on
            state, scalars = step_fn(state, batch=batch, stop=stop_now)
        health.put(step, scalars)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            values = health.flush()
            events.write_scalars(done, {**values, **hooks.throughput.report(done)})
            bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
        if hooks.curve.due(done):
            health.flush()  # nor may it be judged
            measured = hooks.curve.measure(done, state.ema)
            events.write_scalars(done, {f"validation/{k}": v for k, v in measured.items()})
        if done % max(config.steps // PICTURES_IN_A_RUN, 1) == 0 and done < config.steps:
            _write_pictures(events, done, pictures(state.ema))
        preempted = health.stop
        if done < config.steps and (preempted or done % config.checkpoint_every == 0):
            health.flush()  # a bad state must never become a checkpoint
            hooks.checkpoints.save(done, state, iterator.get_state())
            if preempted:
                # Most launchers end the other processes when one exits.
                hooks.checkpoints.wait()
                hosts.barrier("checkpoint saved")
                raise preemption.Preempted(hooks.notice.received or signal.SIGTERM)
    _write_pictures(events, config.steps, pictures(state.ema))
    return state


def _write_pictures(events: Any, step: int, images: dict[str, np.ndarray]) -> None:
    if images:
        events.write_images(step, {name: image[None] for name, image in images.items()})

"""The one training loop: for tokenizer, teacher, student and classifiers.

A run is a pure function of its config: batch i depends on the seed and i, and the key of step i is
fold_in(key, i). Killed anywhere and started again, it goes on from its last checkpoint and ends
with the very same weights.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddjax import checkpoint, data, keys, monitor, progress, weights
from ddjax.config import Train
from ddjax.errors import UserError

# (model, frozen, batch, key) -> (loss, other scalars)
Loss = Callable[[nnx.Module, Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, dict]]
# (averaged model, frozen) -> images by name, each [H, W, channels] in [0, 1]
Pictures = Callable[[nnx.Module, Any], dict[str, np.ndarray]]

PICTURES_IN_A_RUN = 10


class State(NamedTuple):
    """All that changes while training."""

    step: jax.Array
    model: nnx.Module
    ema: nnx.Module
    opt_state: optax.OptState


def optimizer(config: Train) -> optax.GradientTransformation:
    """AdamW behind a clip; warm-up, then cosine to zero; decay on kernels only."""

    def kernels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: weights.path_name(path).endswith("kernel"), params
        )

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate(config), b2=config.b2, weight_decay=config.weight_decay, mask=kernels
        ),
    )


def learning_rate(config: Train) -> optax.Schedule:
    """Linear from 0 in `warmup` steps, then half a cosine to 0 at the last step."""
    return optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup else config.learning_rate,
        config.learning_rate, config.warmup, config.steps,
    )


def init_state(model: nnx.Module, config: Train) -> State:
    """Step 0; the average starts as a copy, since the step's buffers are donated."""
    ema = jax.tree.map(jnp.copy, model)
    return State(jnp.zeros((), jnp.int32), model, ema, optimizer(config).init(model))


@functools.partial(jax.jit, static_argnames=("loss", "config"), donate_argnames="state")
def train_step(
    state: State,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    loss: Loss,
    config: Train,
) -> tuple[State, dict[str, jax.Array]]:
    """One update.

    Returns:
      the new state, and scalars, with "gradient_norms" [leaves] beside them.
    """
    step_key = jax.random.fold_in(key, state.step)
    grad = jax.value_and_grad(loss, has_aux=True)
    (value, scalars), grads = grad(state.model, frozen, batch, step_key)
    updates, opt_state = optimizer(config).update(grads, state.opt_state, state.model)
    model = optax.apply_updates(state.model, updates)
    decay = jnp.minimum(config.ema, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(model, state.ema, 1 - decay)
    norms = jnp.stack([jnp.linalg.norm(g.reshape(-1)) for g in jax.tree.leaves(grads)])
    scalars = {
        "loss": value,
        **scalars,
        "gradient_norm": jnp.linalg.norm(norms),
        "learning_rate": learning_rate(config)(state.step),
        "gradient_norms": norms,
    }
    return State(state.step + 1, model, ema, opt_state), scalars


def train(
    *,
    name: str,
    directory: Path,
    kind: str,
    init: Callable[[nnx.Rngs], nnx.Module],
    loss: Loss,
    frozen: Any,
    rows: data.Arrays,
    seed: int,
    config: Train,
    restore: str = "latest",
    pictures: Pictures | None = None,
) -> nnx.Module:
    """Train a model, or continue, or read it if it is finished.

    Args:
      name: shown on the progress bar; names the streams of randomness.
      directory: gets `model/` (the averaged weights, once finished), `checkpoints/`, `events/`.
      kind: of `ddjax.models.MODELS`, for the model folder.
      init: makes the model that training starts from.
      loss: see `Loss`; must not change between calls, it is a static argument of the step.
      frozen: pytree that the loss reads and nothing updates.
      rows: the examples, arrays of one length.
      seed: of the order of the examples, of the initial weights and of the loss.
      config: hyper-parameters.
      restore: "latest" or "previous" checkpoint.
      pictures: for TensorBoard.

    Returns:
      the averaged model.

    Raises:
      UserError: a loss or gradient that is not finite (names step and metric; the last good
        checkpoint stays), or a damaged checkpoint.
    """
    if (directory / "model").exists():
        return weights.load(directory / "model")
    checkpoints = checkpoint.Checkpoints(directory / "checkpoints", config.keep)
    batches = data.batches(rows, config.batch, seed)
    iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1)))
    state = init_state(init(nnx.Rngs(keys.stream(seed, f"{name}.init"))), config)
    restored = checkpoints.restore(state, restore)
    if restored is not None:
        state, position = restored
        iterator.set_state(position)
    events = monitor.writer(directory / "events")
    try:
        state = _loop(
            name, state, iterator, checkpoints, events,
            functools.partial(
                train_step, frozen=frozen, key=keys.stream(seed, name), loss=loss, config=config
            ),
            config, lambda model: pictures(model, frozen) if pictures else {},
        )
    finally:
        checkpoints.close()
        events.close()
    weights.save(directory / "model", kind, state.ema)
    return state.ema


def _loop(
    name: str,
    state: State,
    iterator: grain.DatasetIterator,
    checkpoints: checkpoint.Checkpoints,
    events: Any,
    step_fn: Callable,
    config: Train,
    pictures: Callable[[nnx.Module], dict[str, np.ndarray]],
) -> State:
    names = list(weights.flatten(state.model))
    begin = int(state.step)
    bar = progress.bar(range(begin, config.steps), name, config.steps, begin)
    rate = _Rate(config.batch)
    pending = None
    for step in bar:
        state, scalars = step_fn(state, batch=next(iterator))
        # Read the previous step's scalars only now, while the device is busy with this one.
        if pending is not None:
            _check_finite(name, *pending, names)
        pending = (step, scalars)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            _check_finite(name, *pending, names)
            values = {k: float(v) for k, v in scalars.items() if v.ndim == 0}
            events.write_scalars(done, {**values, "images_per_second": rate(done)})
            bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
        if done % max(config.steps // PICTURES_IN_A_RUN, 1) == 0 and done < config.steps:
            _write_pictures(events, done, pictures(state.ema))
        if done % config.checkpoint_every == 0 and done < config.steps:
            _check_finite(name, *pending, names)  # a bad state must never become a checkpoint
            checkpoints.save(done, state, iterator.get_state())
    if pending is not None:
        _check_finite(name, *pending, names)
    _write_pictures(events, config.steps, pictures(state.ema))
    return state


def _write_pictures(events: Any, step: int, images: dict[str, np.ndarray]) -> None:
    if images:
        events.write_images(step, {name: image[None] for name, image in images.items()})


def _check_finite(name: str, step: int, scalars: dict[str, jax.Array], names: list[str]) -> None:
    host = jax.device_get(scalars)
    for metric, value in host.items():
        if metric != "gradient_norms" and not np.isfinite(value):
            bad = [n for n, x in zip(names, host["gradient_norms"], strict=True) if ~np.isfinite(x)]
            where = f"; the gradient is not finite first at {bad[0]}" if bad else ""
            raise UserError(
                f"{name}: {metric} is {value} at step {step}{where}; the last good checkpoint is "
                "kept. Lower the learning rate, or look at the data of that step"
            )


class _Rate:
    """Images per second since the last call."""

    def __init__(self, batch: int) -> None:
        self._batch, self._time, self._step = batch, time.perf_counter(), None

    def __call__(self, step: int) -> float:
        now, before = time.perf_counter(), self._step
        seconds, self._time, self._step = now - self._time, now, step
        return 0.0 if before is None else (step - before) * self._batch / seconds

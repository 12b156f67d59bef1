"""Gradient descent: one update of a model by AdamW, of a batch at once or in parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddjax.config.schema import TrainSection
from ddjax.method.protocols import Network
from ddjax.runtime import sharding, trees
from ddjax.runtime.layout import ParameterLayout

# (model, frozen, batch, key) -> (loss, other scalars)
Loss = Callable[[Network, Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, dict]]


class Updated(NamedTuple):
    """A model after an update.

    Attributes:
      model: with new parameters.
      opt_state: the optimizer's.
      scalars: "loss", and what the loss gives beside it.
      norms: of the gradient, [leaves], in the order of the model's.
    """

    model: Network
    opt_state: optax.OptState
    scalars: dict[str, jax.Array]
    norms: jax.Array


def learning_rate(config: TrainSection) -> optax.Schedule:
    """Linear from 0 in `warmup` steps, then half a cosine to 0 at the last step."""
    return optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup else config.learning_rate,
        config.learning_rate, config.warmup, config.steps,
    )


def optimizer(
    config: TrainSection, layout: ParameterLayout, schedule: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """AdamW, clipped.

    Args:
      config: hyper-parameters.
      layout: says what decays.
      schedule: of the learning rate; `learning_rate` by default.
    """

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: layout.decays(trees.path_name(path)), params
        )

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule or learning_rate(config), b2=config.b2, weight_decay=config.weight_decay,
            mask=decayed,
        ),
    )


def update(
    model: Network,
    opt_state: optax.OptState,
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    loss: Loss,
    config: TrainSection,
    schedule: optax.Schedule | None = None,
) -> Updated:
    """One update.

    Args:
      model: being trained.
      opt_state: of `optimizer`.
      frozen: what the loss reads and nothing trains.
      batch: rows over all devices.
      key: of the loss.
      loss: see `Loss`.
      config: hyper-parameters.
      schedule: see `optimizer`.
    """
    (value, scalars), grads = _gradient(model, frozen, batch, key, loss, config)
    updates, opt_state = optimizer(config, model.layout, schedule).update(grads, opt_state, model)
    norms = jnp.stack([jnp.sqrt(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(grads)])
    model = optax.apply_updates(model, updates)
    return Updated(model, opt_state, {"loss": value, **scalars}, norms)


def _gradient(
    model: Network, frozen: Any, batch: dict[str, jax.Array], key: jax.Array, loss: Loss,
    config: TrainSection,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Network]:
    """Loss, scalars and gradient; of a batch in parts their mean, and each part has its own key."""

    def of_cut(model: Network, *arguments: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss(sharding.gather_unstacked(model), *arguments)

    grad, parts = jax.value_and_grad(of_cut, has_aux=True), config.accumulate
    if parts == 1:
        return grad(model, frozen, batch, key)

    def add(total: Any, part: tuple) -> tuple[Any, None]:
        found = grad(model, frozen, *part)
        return jax.tree.map(lambda a, b: a + b / parts, total, found), None

    cut = jax.tree.map(
        lambda x: sharding.constrain_microbatches(x.reshape(parts, -1, *x.shape[1:])), batch
    )
    todo = (cut, jax.random.split(key, parts))
    shapes = jax.eval_shape(grad, model, frozen, *jax.tree.map(lambda x: x[0], todo))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, todo)[0]

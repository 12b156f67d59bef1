"""Leader and follower: two models that are trained together, the follower several times a step.

The follower is to know what the leader does now, so it learns between any two updates of the
leader. Both have an optimizer and a loss of their own; no gradient passes from one to the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddjax.config.schema import TrainSection
from ddjax.method.protocols import Network
from ddjax.runtime import sharding
from ddjax.training import descent
from ddjax.training.descent import Loss, Updated


class Followed(nnx.Module):
    """A model and its follower, whose parameters are named alike; the leader is what is kept."""

    def __init__(self, leader: Network, follower: Network) -> None:
        self.leader, self.follower = leader, follower
        self.layout = leader.layout


def leader(model: Network) -> Network:
    """What is averaged and kept of a model: its leader, or all of it where nothing follows."""
    return model.leader if isinstance(model, Followed) else model


def first(model: Network, config: TrainSection) -> optax.OptState:
    """The optimizer's state at the start; the leader's and the follower's, where one follows."""
    init = descent.optimizer(config, model.layout).init
    if isinstance(model, Followed):
        return init(model.leader), init(model.follower)
    return init(model)


class Following(NamedTuple):
    """How the follower is trained.

    Attributes:
      loss: its own; reads `Beside` with the leader.
      updates: before each of the leader.
      rate: its learning rate, in units of the leader's at that step.
    """

    loss: Loss
    updates: int
    rate: float


class Beside(NamedTuple):
    """What the loss of one of the two models reads: the other, and what nothing trains."""

    other: Network
    frozen: Any


def update(
    pair: Followed,
    opt_states: tuple[optax.OptState, optax.OptState],
    frozen: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    loss: Loss,
    config: TrainSection,
    follow: Following,
) -> Updated:
    """The follower's updates, each with a key of its own, then the leader's.

    Args:
      pair: being trained.
      opt_states: the leader's, the follower's.
      frozen: what neither loss trains.
      batch: of every update.
      key: of the step.
      loss: the leader's; reads `Beside` with the follower.
      config: hyper-parameters of both.
      follow: see there.

    Returns:
      scalars of the leader's update, and "follower_loss", the mean over the follower's; the norms
      of both gradients, of the follower's last one.
    """
    rate = descent.learning_rate(config)
    keys = jax.random.split(key, follow.updates + 1)
    seen = sharding.gather_unstacked(pair.leader)

    def one(carry: tuple, key: jax.Array) -> tuple:
        follower, opt_state = carry
        made = descent.update(
            follower, opt_state, Beside(seen, frozen), batch, key, loss=follow.loss,
            config=config, schedule=lambda n: follow.rate * rate(n // follow.updates),
        )
        carry = sharding.constrain((made.model, made.opt_state), pair.layout)
        return carry, (made.scalars["loss"], made.norms)

    (follower, follower_state), (losses, norms) = jax.lax.scan(
        one, (pair.follower, opt_states[1]), keys[1:]
    )
    beside = Beside(sharding.gather_unstacked(follower), frozen)
    lead = descent.update(
        pair.leader, opt_states[0], beside, batch, keys[0], loss=loss, config=config
    )
    return Updated(
        Followed(lead.model, follower), (lead.opt_state, follower_state),
        {**lead.scalars, "follower_loss": jnp.mean(losses)},
        jnp.concatenate([norms[-1], lead.norms]),  # leaves of a module go by name
    )

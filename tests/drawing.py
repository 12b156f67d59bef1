"""Draw a batch by the name of a way, without a pipeline."""

import functools

import jax
import jax.numpy as jnp

from ddjax.method import keys, trajectory, ways
from ddjax.method.sampling import Batch


def keys_of(seed, count):
    return keys.per_image(jax.random.key(seed), jnp.arange(count))


def batch(models, settings, eps, condition, *, seed=3, bucket=None, prefix=None):
    count = len(eps)
    bucket = jnp.zeros(count, jnp.int32) if bucket is None else bucket
    prefix = trajectory.no_prefix(count) if prefix is None else prefix
    return Batch(models, settings, eps, condition, bucket, keys_of(seed, count), prefix)


@functools.partial(jax.jit, static_argnames=("settings", "way"))
def _draw(models, settings, *rows, way):
    return way.draw(Batch(models, settings, *rows))


def draw_at_once(name, batch):
    """By one program; the models must be pytrees."""
    rows = (batch.eps_BLC, batch.condition, batch.bucket_B, batch.keys_B, batch.prefix_BP)
    return _draw(batch.models, batch.settings, *rows, way=ways.parse(name))


def draw(name, *args, **options):
    return ways.parse(name).draw(batch(*args, **options))

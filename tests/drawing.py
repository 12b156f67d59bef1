"""Draw a batch by the name of a way, without a pipeline."""

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


def draw(name, *args, **options):
    return ways.parse(name).draw(batch(*args, **options))

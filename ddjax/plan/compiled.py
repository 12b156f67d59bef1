"""XLA memory analysis of a job, on simulated devices.

XLA's compiler for CPUs stands for those of accelerators, which fuse otherwise. What the arguments
take is exact for every kind of device; intermediate values are that compiler's own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ddjax.config.schema import Config
from ddjax.plan import captions
from ddjax.runtime import sharding
from ddjax.stages import distill_map, distill_score, pair_generation
from ddjax.training import loop
from ddjax.training.following import Followed


class Compiled(NamedTuple):
    """Bytes on one device, by the compiler's own figures."""

    arguments: int
    intermediate: int


def simulate(devices: int) -> None:
    """Pretend so many CPU devices; before any is used."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def training_step(config: Config, nets: dict[str, nnx.Module]) -> Compiled:
    """The step of distillation on the current mesh."""
    section, devices = config.distill.train, sharding.devices()
    first = jax.eval_shape(functools.partial(loop.first_state, config=section), nets["student"])
    frozen = sharding.replicate(distill_map.Frozen(nets["tokenizer"], nets.get("perceptual net")))
    batch = section.batch
    rows = sharding.batch_like({
        "index": _array(jnp.int32, batch),
        "condition": captions.shapes(config, batch),
        "ids": _array(jnp.uint16, batch, config.groups.length),
    })
    return _compile(
        loop.train_step, sharding.shard(first, first.model.layout), frozen, rows,
        jax.eval_shape(jax.random.key, 0), sharding.batch_like(_array(jnp.bool_, devices)),
        loss=distill_map.loss_of(config, noise_seed=config.seed),
        config=section,
    )


def score_step(config: Config, nets: dict[str, nnx.Module]) -> Compiled:
    """The step of score distillation on the current mesh."""
    section = config.distill.score.train
    codes_VC = jax.eval_shape(lambda tokenizer: tokenizer.codebook, nets["tokenizer"])
    first = jax.eval_shape(
        lambda student, fake: loop.first_state(Followed(student, fake), section),
        nets["student"], nets["teacher"],
    )
    return _compile(
        loop.train_step, sharding.shard(first, first.model.layout),
        sharding.replicate(distill_score.Frozen(codes_VC, nets["teacher"])),
        sharding.batch_like({"condition": captions.shapes(config, section.batch)}),
        jax.eval_shape(jax.random.key, 0),
        sharding.batch_like(_array(jnp.bool_, sharding.devices())),
        loss=distill_score.loss_of(config), config=section,
        follow=distill_score.following_of(config),
    )


def pairs(config: Config, nets: dict[str, nnx.Module]) -> Compiled:
    """A batch of pairs on every device of the current mesh."""
    codes = jax.eval_shape(lambda tokenizer: tokenizer.codebook, nets["tokenizer"])
    total = config.pairs.batch * sharding.devices()
    noise = _array(jnp.float32, total, config.groups.length, codes.shape[1])
    return _compile(
        pair_generation.map_batch, *sharding.replicate((nets["teacher"], codes)),
        *sharding.batch_like((noise, captions.shapes(config, total))),
        guidance=config.guidance, solver=config.flow,
    )


def _array(dtype: jnp.dtype, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _compile(function: jax.stages.Wrapped, *arguments: object, **static: object) -> Compiled:
    figures = function.lower(*arguments, **static).compile().memory_analysis()
    return Compiled(figures.argument_size_in_bytes, figures.temp_size_in_bytes)

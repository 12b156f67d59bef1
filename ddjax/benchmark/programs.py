"""Benchmark programs: what is measured, as functions without arguments."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddjax.benchmark.report import TRAINING
from ddjax.config.schema import Config, ModelSection
from ddjax.data import batches
from ddjax.data.conditions import CaptionTexts, Conditioned, Conditions
from ddjax.data.pieces import Tokens
from ddjax.data.sources import Arrays
from ddjax.method import flow, ways
from ddjax.method.groups import Groups
from ddjax.method.protocols import Features
from ddjax.method.sampling import Models, decode
from ddjax.method.ways import Refine
from ddjax.models import MODELS
from ddjax.pipeline import Pipeline
from ddjax.runtime import flops, sharding
from ddjax.stages import distill_map, pair_generation
from ddjax.storage import pair_store, run_models
from ddjax.training import loop


class Program:
    """A compiled function and its arguments; both are made when they are first asked for.

    Args:
      prepare: makes them: what is called, without arguments left; `func` is the compiled one.
    """

    def __init__(self, prepare: Callable[[], functools.partial]) -> None:
        self._prepare = prepare

    @functools.cached_property
    def ready(self) -> functools.partial:
        """Compiled."""
        return self._prepare()

    def __call__(self) -> Any:
        """Arrays."""
        return self.ready()

    def memory(self) -> int:
        """Bytes on a device while it runs, its arguments included, by the compiler's figures."""
        found = self.ready.func.memory_analysis()
        return (
            found.argument_size_in_bytes + found.output_size_in_bytes
            + found.temp_size_in_bytes - found.alias_size_in_bytes
        )


def _program(function: Any, arguments: Callable[[], tuple], **static: Any) -> Program:
    """A jitted function with arguments that are made when they are needed."""

    def prepare() -> functools.partial:
        given = arguments()
        return functools.partial(function.lower(*given, **static).compile(), *given)

    return Program(prepare)


def load(config: Config) -> tuple[Models, distill_map.Frozen]:
    """The models that the config names, where they are there; others with random weights."""
    config = dataclasses.replace(
        config, teacher=_there(config.teacher), tokenizer=_there(config.tokenizer)
    )
    teacher, tokenizer = (
        run_models.load(config, Path(), name) for name in ("teacher", "tokenizer")
    )
    student_class = MODELS[config.student.kind]
    student = sharding.replicate(student_class.from_teacher(teacher, rngs=nnx.Rngs(1)))
    net = None
    if config.distill.perceptual:
        net = run_models.load_model(_there(config.distill.perceptual_net), "net", Path())
    return Models(tokenizer, teacher, student), distill_map.Frozen(tokenizer, net)


def described(config: Config) -> dict[str, Any]:
    """Name of the config, and what weights its models have."""
    named = {name: weights(getattr(config, name)) for name in ("teacher", "tokenizer")}
    return {"config": config.name, "weights": named}


def weights(section: ModelSection) -> str:
    """The model folder that a section names, or "random" where there is none."""
    there = section.weights and Path(section.weights).is_dir()
    return section.weights if there else run_models.RANDOM


def _there(section: ModelSection) -> ModelSection:
    return dataclasses.replace(section, weights=weights(section))


def conditions(config: Config) -> Conditions:
    """Those of the config; where captions are texts, 1,000 of random tokens in their place."""
    if config.text is None:
        return run_models.conditions(config)
    section, model = _there(config.text), config.teacher.model

    def tokens(texts: Sequence[str], count: int) -> Tokens:
        shape = (len(texts), count)
        ids = np.random.default_rng(0).integers(2, section.model.vocab_size, shape)
        return Tokens(ids.astype(np.int32), np.ones(shape, bool), np.zeros(len(texts), bool))

    encoder = functools.cache(lambda: run_models.load_model(section, "text", Path()))
    return CaptionTexts(("",) * 1000, str, tokens, encoder, model.caption_tokens, model.caption_dim)


def pipeline(
    config: Config, models: Models, given: Conditions, batch: int, devices: list[jax.Device]
) -> Pipeline:
    """A pipeline of models that are there.

    Args:
      config: of the run.
      models: what is drawn with.
      given: the conditions.
      batch: images at once on a device.
      devices: that draw.
    """
    parts = models._asdict() | {"sizes": config.teacher.model}
    return Pipeline(parts.get, config.sampling, given, batch, devices)


def drawing(config: Config, pipe: Pipeline) -> dict[str, Callable[[], Any]]:
    """Drawing, decoding and making pairs at a batch; nothing runs yet.

    Captions are encoded before a call: the encoder has a row of its own.
    """
    models, groups = pipe.models(Refine(1)), config.groups
    codes_VC, total = models.tokenizer.codebook, pipe.batch * sharding.devices()
    index = np.arange(total, dtype=np.int32)
    numbers, shape = pipe.conditions.number(index), (total, groups.length, codes_VC.shape[1])
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nothing, calls = np.zeros((total, 0), np.int32), {}
    for name in ("teacher_ar", "student_1step", "student_2step", "refine_1"):
        way = ways.parse(name)
        if not way.problem(groups, config.sampling):
            calls[name] = Program(functools.partial(
                pipe.program, way, noise, numbers, index, nothing, seed=1, want=("vectors",)
            ))
    eps, given = sharding.shard_batch((noise, pipe.conditions.take(numbers)), total)
    encoded = functools.cache(lambda: pipe.conditions.encode(given))
    if isinstance(pipe.conditions, CaptionTexts):
        calls["encoder"] = lambda: pipe.conditions.encode(given)
    x = sharding.shard_batch(np.asarray(codes_VC)[_ids(total, config)], total)
    calls["decode"] = _program(_decode, lambda: (models.tokenizer, x))
    calls["pairs"] = _program(
        pair_generation.map_batch, lambda: (models.teacher, codes_VC, eps, encoded()),
        guidance=config.guidance, solver=config.flow,
    )
    log_p = sharding.shard_batch(np.zeros((total, len(codes_VC)), np.float32), total)
    calls["flow map of the pairs"] = _program(
        _map_all_tokens, lambda: (codes_VC, log_p, eps), groups=groups, solver=config.flow
    )
    return calls


def measuring(config: Config, pipe: Pipeline) -> Callable[[], Any]:
    """What the evaluation's net measures of a batch of images of the config's size."""
    tokenizer, total = pipe.models(Refine(1)).tokenizer, pipe.batch * sharding.devices()
    vectors = jnp.zeros((total, config.groups.length, config.teacher.model.code_dim))
    shape = jax.eval_shape(tokenizer.decode, vectors).shape
    levels = np.random.default_rng(0).integers(0, 256, shape)
    images = sharding.shard_batch((levels / 127.5 - 1).astype(np.float32), total)
    net = functools.cache(
        lambda: run_models.load_model(_there(config.evaluate.features), "net", Path())
    )
    return lambda: _measure(net(), images)


@jax.jit
def _measure(net: nnx.Module, images: jax.Array) -> Features:
    return sharding.per_device(lambda net, x: net.measure(x), replicated=1)(net, images)


@jax.jit
def _decode(tokenizer: nnx.Module, x_BLC: jax.Array) -> jax.Array:
    return sharding.per_device(decode, replicated=1)(tokenizer, x_BLC)


@functools.partial(jax.jit, static_argnames=("groups", "solver"))
def _map_all_tokens(
    codes_VC: jax.Array, log_p_BV: jax.Array, eps_BLC: jax.Array, groups: Groups,
    solver: flow.Solver,
) -> list[jax.Array]:
    """The part of pair generation that is not the teacher, by every device."""
    share = functools.partial(_map_share, groups=groups, solver=solver)
    return sharding.per_device(share, replicated=1)(codes_VC, log_p_BV, eps_BLC)


def _map_share(
    codes_VC: jax.Array, log_p_BV: jax.Array, eps_BLC: jax.Array, *, groups: Groups,
    solver: flow.Solver,
) -> jax.Array:
    """The map, group after group."""
    made = []
    for begin, end in groups.runs(0, groups.count):
        first, stop, size = groups.starts[begin], groups.starts[end], groups.sizes[begin]
        log_p = jnp.broadcast_to(log_p_BV[:, None], (len(log_p_BV), size, log_p_BV.shape[1]))
        eps = eps_BLC[:, first:stop].reshape(len(eps_BLC), end - begin, size, -1)

        def one(_: None, eps_BSC: jax.Array, log_p: jax.Array = log_p) -> tuple:
            return None, flow.noise_to_ids(eps_BSC, log_p, codes_VC, solver)

        ids = jax.lax.scan(one, None, jnp.swapaxes(eps, 0, 1))[1]
        made.append(jnp.swapaxes(ids, 0, 1).reshape(len(eps_BLC), -1))
    return jnp.concatenate(made, axis=1)


def training_rows(config: Config, conditions: Conditions, batch: int) -> dict[str, Any]:
    """A batch as the loss reads it, on the devices: captions are encoded."""
    index = np.arange(batch, dtype=np.int32)
    rows = {"index": index, "condition": conditions.take(conditions.number(index)),
            "ids": _ids(batch, config)}
    return Conditioned(Arrays(rows), conditions).encode(sharding.shard_batch(rows, batch))


def encoding(conditions: CaptionTexts, batch: int) -> Callable[[], Any]:
    """What the text encoder does for a batch of the training."""
    index = np.arange(batch, dtype=np.int32)
    given = sharding.shard_batch(conditions.take(conditions.number(index)), batch)
    return lambda: conditions.encode(given)


def check_batch(config: Config, batch: int) -> None:
    """Refuse a batch of the training step that the devices cannot share."""
    loop.check_batch(
        TRAINING, dataclasses.replace(config.distill.train, batch=batch), sharding.devices()
    )


class _Steps:
    """Training steps one after another, each from the state that the one before has left.

    Args:
      compiled: `loop.train_step`.
      first: makes the state of the first, which is used up.
      arguments: of all.
    """

    def __init__(
        self, compiled: jax.stages.Compiled, first: Callable[[], loop.State],
        arguments: dict[str, Any],
    ) -> None:
        self._compiled, self._first, self._arguments = compiled, first, arguments
        self._state: loop.State | None = None
        self.memory_analysis = compiled.memory_analysis

    def __call__(self) -> dict[str, jax.Array]:
        state = self._first() if self._state is None else self._state
        self._state, scalars = self._compiled(state, **self._arguments)
        return scalars


def training_step(
    config: Config, models: Models, frozen: distill_map.Frozen, rows: Callable[[], dict[str, Any]]
) -> Program:
    """A step of the distillation, on the same batch each time.

    Args:
      config: of the run.
      models: with the student, which is copied.
      frozen: see `distill_map.Frozen`.
      rows: makes a batch, as `distill_map.loss` reads it.
    """
    section = config.distill.train

    def first() -> loop.State:
        # A copy, since the step uses up its buffers.
        return loop.init_state(jax.tree.map(jnp.copy, models.student), section)

    def prepare() -> functools.partial:
        shapes = jax.eval_shape(
            functools.partial(loop.first_state, config=section), models.student
        )
        arguments = {"frozen": frozen, "batch": rows(), "key": jax.random.key(0),
                     "stop": jnp.zeros(1, bool)}
        lowered = loop.train_step.lower(
            sharding.shard(shapes, models.student.layout), **arguments,
            loss=distill_map.loss_of(config, noise_seed=0), config=section,
        )
        return functools.partial(_Steps(lowered.compile(), first, arguments))

    return Program(prepare)


def training_flops(
    config: Config, models: Models, frozen: distill_map.Frozen, rows: dict[str, Any]
) -> float:
    """Operations of the loss and its gradient: what the model needs, without recomputation.

    Args:
      config: of the run.
      models: with the student.
      frozen: see `distill_map.Frozen`.
      rows: a batch, as `distill_map.loss` reads it.
    """
    loss = distill_map.loss_of(config, noise_seed=0)
    grad = jax.value_and_grad(loss, has_aux=True)
    return flops.count(grad, models.student, frozen, rows, jax.random.key(0))


def reading(config: Config, batch: int) -> Callable[[], Any]:
    """The batches of a training, from a store of random pairs, also onto the devices."""
    batches = None

    def read() -> Any:
        nonlocal batches
        if batches is None:
            batches = iter(_stored_batches(config, batch))
        return sharding.shard_batch(next(batches), batch)

    return read


def _stored_batches(config: Config, batch: int) -> Iterator[dict[str, np.ndarray]]:
    length = config.groups.length
    # More than stay in memory are all read alike, so no more are made.
    enough = 2 * pair_store.IN_MEMORY // pair_store.record_type(length).itemsize
    count = max(batch, min(config.pairs.count, enough))
    with tempfile.TemporaryDirectory() as folder:
        store = pair_store.Store(Path(folder))
        about = {"count": count, "per_shard": count, "length": length}
        store.create(about)
        store.write(*store.shards(), np.zeros(count, np.int32), _ids(count, config))
        with contextlib.closing(batches.iterate(store.source(), batch, config.seed)) as iterator:
            yield from iterator


def _ids(batch: int, config: Config) -> np.ndarray:
    shape, vocab = (batch, config.groups.length), config.teacher.model.vocab_size
    return np.random.default_rng(2).integers(0, vocab, shape).astype(np.uint16)

"""Benchmark: seconds an image, a training step, a pair: `python -m ddjax.benchmark --config=...`.

Models of the config's sizes, with random weights where it names none that are there, on all
devices, in steady state, compilation apart. Ratios between rows of one run mean something, seconds
of two runs on a busy machine do not.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from ddjax import cli
from ddjax.config.schema import Config, ModelSection
from ddjax.data import batches
from ddjax.method import flow, ways
from ddjax.method.groups import Groups
from ddjax.method.sampling import Models
from ddjax.method.ways import Refine
from ddjax.models import MODELS
from ddjax.pipeline import Pipeline
from ddjax.runtime import flops, sharding
from ddjax.runtime.errors import UserError
from ddjax.stages import distill, pair_generation
from ddjax.storage import files, pair_store, run_models
from ddjax.training import loop

_BATCH = flags.DEFINE_list("batch", ["64"], "Images at once on a device, one or more: 1,8")
_TRAIN_BATCH = flags.DEFINE_integer(
    "train_batch", None, "Of the training step; the config's", lower_bound=1
)
_ONLY = flags.DEFINE_list("only", [], "Rows to measure; all by default")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the median counts", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "Write the JSON here too; must not exist")

TRAINING, READING = "training step", "reading a batch of pairs"


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of the first call, which compiles, and the median of the next ones."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:]), "first_call_seconds": seconds[0]}


def benchmark(config: Config) -> dict[str, Any]:
    """All rows asked for, and how much memory the process took."""
    models, frozen = _parts(config)
    rows, todo = [], []
    for batch in _batches():
        parts = models._asdict() | {"sizes": config.teacher.model}
        pipe = Pipeline(
            parts.get, config.sampling, run_models.conditions(config), batch, jax.local_devices()
        )
        todo += [(name, batch, call) for name, call in _calls(config, pipe).items()]
    train_batch = _TRAIN_BATCH.value or config.distill.train.batch
    todo.append((TRAINING, train_batch, _training_step(config, models, frozen, train_batch)))
    if _is_installed("grain", "array_record"):
        todo.append((READING, train_batch, _reading(config, train_batch)))
    else:
        print(f"{READING}: not measured, Grain is not installed", file=sys.stderr)
    known = list(dict.fromkeys(name for name, _, _ in todo))
    unknown = [name for name in _ONLY.value if name not in known]
    if unknown:
        raise UserError(f"--only={unknown[0]} is no row; known are {', '.join(known)}")
    for name, batch, call in todo:
        if name in _ONLY.value or not _ONLY.value:
            print(f"{name}, batch {batch} ...", file=sys.stderr, flush=True)
            row = {"name": name, "batch": batch, **timed(call, _REPEATS.value)}
            images = batch if name in (TRAINING, READING) else batch * sharding.devices()
            rows.append({**row, "seconds_per_image": row["seconds"] / images})
    _add_ratios(rows, functools.partial(_training_flops, config, models, frozen))
    return {
        "config": config.name,
        "weights": {name: _weights(getattr(config, name)) for name in ("teacher", "tokenizer")},
        "device": _device(),
        "devices": sharding.devices(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "command": " ".join(["python -m ddjax.benchmark", *sys.argv[1:]]),
        "peak_memory_mb": _peak_memory_mb(),
        "rows": rows,
    }


def _is_installed(*packages: str) -> bool:
    try:
        for package in packages:
            importlib.import_module(package)
    except ModuleNotFoundError:
        return False
    return True


def _device() -> str:
    """By its maker's name; of a CPU also how many cores it has."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    info = Path("/proc/cpuinfo")  # Linux alone has it
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _batches() -> list[int]:
    try:
        batches = [int(text) for text in _BATCH.value]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"--batch={','.join(_BATCH.value)}: give whole numbers from 1, such as 1,8")
    return batches


def _calls(config: Config, pipe: Pipeline) -> dict[str, Callable[[], Any]]:
    """What is measured at a batch, but for the training step; nothing runs yet."""
    models, groups = pipe.models(Refine(1)), config.groups
    codes_VC, total = models.tokenizer.codebook, pipe.batch * sharding.devices()
    index = np.arange(total, dtype=np.int32)
    numbers, shape = pipe.conditions.number(index), (total, groups.length, codes_VC.shape[1])
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nothing, calls = np.zeros((total, 0), np.int32), {}
    for name in ("teacher_ar", "student_1step", "student_2step", "refine_1"):
        way = ways.parse(name)
        if not way.problem(groups, config.sampling):
            calls[name] = _drawing(pipe, way, (noise, numbers, index, nothing))
    eps, condition = sharding.shard_batch((noise, pipe.conditions.take(numbers)), total)
    condition = pipe.conditions.encode(condition)
    x = sharding.shard_batch(np.asarray(codes_VC)[_ids(total, config)], total)
    calls["decode"] = lambda: _decode(models.tokenizer, x)
    calls["pairs"] = lambda: pair_generation.map_batch(
        models.teacher, codes_VC, eps, condition, guidance=config.guidance, solver=config.flow
    )
    log_p = sharding.shard_batch(np.zeros((total, len(codes_VC)), np.float32), total)
    calls["flow map of the pairs"] = lambda: _map_all_tokens(
        codes_VC, log_p, eps, groups, config.flow
    )
    return calls


def _drawing(pipe: Pipeline, way: ways.Way, batch: tuple) -> Callable[[], Any]:
    """Drawing code vectors by a way; compiled at the first call."""
    program = functools.cache(lambda: pipe.program(way, *batch, seed=1, want=("vectors",)))
    return lambda: program()()


@jax.jit
def _decode(tokenizer: nnx.Module, x_BLC: jax.Array) -> jax.Array:
    return sharding.per_device(lambda tokenizer, x: tokenizer.decode(x), replicated=1)(
        tokenizer, x_BLC
    )


def _add_ratios(rows: list[dict[str, Any]], training_flops: Callable[[int], float]) -> None:
    """What follows from the times: shares, rates, utilisation."""
    seconds = {(row["name"], row["batch"]): row["seconds"] for row in rows}
    for row in rows:
        teacher = seconds.get(("teacher_ar", row["batch"]))
        if teacher and row["name"].startswith(("student", "refine")):
            row["speedup_over_teacher"] = teacher / row["seconds"]
        if row["name"] == "pairs":
            row["pairs_per_second"] = 1 / row["seconds_per_image"]
            mapping = seconds.get(("flow map of the pairs", row["batch"]))
            if mapping:
                row["flow_map_share"] = mapping / row["seconds"]
        if row["name"] == TRAINING:
            row["flops"] = training_flops(row["batch"])
            peak, row["peak_source"] = flops.peak()
            per_second = row["flops"] / row["seconds"] / sharding.devices()
            row["model_flop_utilisation"] = per_second / peak
        step = [other["seconds"] for other in rows if other["name"] == TRAINING]
        if row["name"] == READING and step:
            row["share_of_a_training_step"] = row["seconds"] / step[0]


def _parts(config: Config) -> tuple[Models, distill.Frozen]:
    """The models that the config names, where they are there; others with random weights."""

    def there(section: ModelSection) -> ModelSection:
        return dataclasses.replace(section, weights=_weights(section))

    config = dataclasses.replace(
        config, teacher=there(config.teacher), tokenizer=there(config.tokenizer)
    )
    teacher, tokenizer = (
        run_models.load(config, Path(), name) for name in ("teacher", "tokenizer")
    )
    student_class = MODELS[config.student.kind]
    student = sharding.replicate(student_class.from_teacher(teacher, rngs=nnx.Rngs(1)))
    net = None
    if config.distill.perceptual:
        net = run_models.load_model(there(config.distill.perceptual_net), "net", Path())
    return Models(tokenizer, teacher, student), distill.Frozen(tokenizer, net)


def _weights(section: ModelSection) -> str:
    there = section.weights and Path(section.weights).is_dir()
    return section.weights if there else run_models.RANDOM


def _ids(batch: int, config: Config) -> np.ndarray:
    shape, vocab = (batch, config.groups.length), config.teacher.model.vocab_size
    return np.random.default_rng(2).integers(0, vocab, shape).astype(np.uint16)


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


def _training_rows(config: Config, batch: int) -> dict[str, np.ndarray]:
    index, given = np.arange(batch, dtype=np.int32), run_models.conditions(config)
    return {"index": index, "condition": given.encode(given.take(given.number(index))),
            "ids": _ids(batch, config)}


def _reading(config: Config, batch: int) -> Callable[[], Any]:
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


def _training_step(
    config: Config, models: Models, frozen: distill.Frozen, batch: int
) -> Callable[[], Any]:
    loss = distill.loss_of(config, noise_seed=0)
    loop.check_batch(TRAINING, dataclasses.replace(config.distill.train, batch=batch),
                      sharding.devices())
    rows, state = sharding.shard_batch(_training_rows(config, batch), batch), None

    def step() -> Any:
        nonlocal state
        if state is None:
            # A copy, since the step uses up its buffers.
            student = jax.tree.map(jnp.copy, models.student)
            state = loop.init_state(student, config.distill.train)
        state, scalars = loop.train_step(
            state, frozen=frozen, batch=rows, key=jax.random.key(0), stop=jnp.zeros(1, bool),
            loss=loss, config=config.distill.train,
        )
        return scalars

    return step


def _training_flops(
    config: Config, models: Models, frozen: distill.Frozen, batch: int
) -> float:
    """Of the loss and its gradient: what the model needs, without recomputation."""
    loss = distill.loss_of(config, noise_seed=0)
    grad = jax.value_and_grad(loss, has_aux=True)
    return flops.count(
        grad, models.student, frozen, _training_rows(config, batch), jax.random.key(0)
    )


def _peak_memory_mb() -> float:
    """Of the accelerator, or of this process where the device does not tell (a CPU)."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['config']} on {result['devices']} x {result['device']}, jax {result['jax']}, "
        f"peak memory {result['peak_memory_mb']:.0f} MB",
        "",
        "| what | batch | ms / image | ms / call | first call, s | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join(lines + [_table_row(row) for row in result["rows"]])


def _table_row(row: dict[str, Any]) -> str:
    notes = {
        "speedup_over_teacher": "{speedup_over_teacher:.1f}x over the teacher",
        "pairs_per_second": "{pairs_per_second:.3g} pairs a second",
        "flow_map_share": "{flow_map_share:.0%} of it in the flow map",
        "model_flop_utilisation": "{model_flop_utilisation:.0%} of peak ({peak_source})",
        "share_of_a_training_step": "{share_of_a_training_step:.2%} of a training step",
    }
    note = ", ".join(text.format(**row) for key, text in notes.items() if key in row)
    return (
        f"| {row['name']} | {row['batch']} | {1e3 * row['seconds_per_image']:.3g} | "
        f"{1e3 * row['seconds']:.4g} | {row['first_call_seconds']:.1f} | {note} |"
    )


def main(config: Config) -> None:
    """Print the table and the JSON."""
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if output and output.exists():
        raise UserError(f"--output={output} exists already; name another file")
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        result = benchmark(config)
    print(table(result), json.dumps(result), sep="\n\n")
    if output:
        files.write_json(output, result)


if __name__ == "__main__":
    cli.start(main)

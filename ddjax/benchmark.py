"""How fast: `python -m ddjax.benchmark --config=configs/digits.py`.

Random weights of the config's sizes; steady state, compilation apart. Ratios between rows of one
run mean something, seconds of two runs on a busy machine do not.
"""

import functools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

from ddjax import cli, distill, flow, pairs, sample, train, trajectory, workdir
from ddjax.config import Config
from ddjax.errors import UserError
from ddjax.guidance import Guided
from ddjax.methods import Method
from ddjax.models import MODELS

_BATCH = flags.DEFINE_integer("batch", 64, "Images at once", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the median counts", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "Write the JSON here too; must not exist")


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of the first call, which compiles, and the median of the next ones."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:]), "first_call_seconds": seconds[0]}


def benchmark(config: Config, batch: int, repeats: int) -> dict[str, Any]:
    """All rows, each with seconds a call and an image, and how much memory the process took."""
    parts, frozen = _random_parts(config)
    length, code_dim = config.groups.length, parts.tokenizer.codebook.shape[1]
    eps = jax.random.normal(jax.random.key(0), (batch, length, code_dim))
    labels = jnp.arange(batch, dtype=jnp.int32) % config.data.num_classes
    rows = []

    def measure(name: str, call: Callable[[], Any]) -> dict[str, Any]:
        row = {"name": name, **timed(call, repeats)}
        row["seconds_per_image"] = row["seconds"] / batch
        rows.append(row)
        return row

    settings = sample.Settings.of(config)
    for name in ("teacher_ar", "student_1step", "student_2step", "refine_1"):
        method = Method.parse(name)
        if not method.problem(config.groups.count, len(config.student.steps)):
            draw = jax.jit(functools.partial(sample.draw, method=method, settings=settings))
            measure(name, functools.partial(draw, parts, eps, labels, jax.random.key(1)))
    decode = jax.jit(lambda tokenizer, x: tokenizer.decode(x))
    codes = parts.tokenizer.codebook[_ids(batch, config)]
    measure("decode", lambda: decode(parts.tokenizer, codes))
    whole = measure("pairs", lambda: pairs.map_batch(
        parts.teacher, parts.tokenizer.codebook, eps, labels, guidance=config.guidance,
        solver=config.flow,
    ))
    log_p, _ = Guided(parts.teacher, config.guidance).prefill(labels, trajectory.no_prefix(batch))
    mapping = measure("flow map of the pairs", lambda: _map_all_tokens(
        log_p[:, 0], eps, parts.tokenizer.codebook, config.flow
    ))
    train_row = measure("training step", _training_step(config, parts, frozen))
    train_row["seconds_per_image"] = train_row["seconds"] / config.distill.train.batch
    return {
        "config": config.name,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "command": " ".join(["python -m ddjax.benchmark", *sys.argv[1:]]),
        "batch": batch,
        "pairs_per_second": batch / whole["seconds"],
        "flow_map_share": mapping["seconds"] / whole["seconds"],
        "peak_memory_mb": _peak_memory_mb(),
        "rows": rows,
    }


def _random_parts(config: Config) -> tuple[sample.Parts, distill.Frozen]:
    def make(kind: str, sizes: Any) -> nnx.Module:
        return MODELS[kind](sizes, rngs=nnx.Rngs(0))

    tokenizer = make(config.tokenizer.kind, config.tokenizer.model)
    teacher = MODELS[config.teacher.kind].from_tokenizer(
        config.teacher.model, tokenizer, rngs=nnx.Rngs(0)
    )
    student = MODELS[config.student.kind].from_teacher(teacher, rngs=nnx.Rngs(1))
    net = config.distill.perceptual_net
    return sample.Parts(teacher, tokenizer, student, None), distill.Frozen(
        tokenizer, make(net.kind, net.model)
    )


def _ids(batch: int, config: Config) -> jax.Array:
    shape, vocab = (batch, config.groups.length), config.teacher.model.vocab_size
    return jax.random.randint(jax.random.key(2), shape, 0, vocab)


@functools.partial(jax.jit, static_argnames="solver")
def _map_all_tokens(
    log_p_BV: jax.Array, eps_BLC: jax.Array, codes_VC: jax.Array, solver: flow.Solver
) -> jax.Array:
    """The part of pair generation that is not the teacher: the map, token after token."""

    def one(_: None, eps_BC: jax.Array) -> tuple:
        return None, flow.noise_to_ids(eps_BC, log_p_BV, codes_VC, solver)

    return jax.lax.scan(one, None, jnp.swapaxes(eps_BLC, 0, 1))[1]


def _training_step(
    config: Config, parts: sample.Parts, frozen: distill.Frozen
) -> Callable[[], Any]:
    batch = config.distill.train.batch
    rows = {
        "index": jnp.arange(batch, dtype=jnp.int32),
        "condition": jnp.arange(batch, dtype=jnp.int32) % config.data.num_classes,
        "ids": _ids(batch, config),
    }
    loss = functools.partial(distill.loss, config=config, noise_seed=0)
    holder = [train.init_state(jax.tree.map(jnp.copy, parts.student), config.distill.train)]

    def step() -> Any:
        holder[0], scalars = train.train_step(
            holder[0], frozen=frozen, batch=rows, key=jax.random.key(0), loss=loss,
            config=config.distill.train,
        )
        return scalars

    return step


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
        f"batch {result['batch']}",
        "",
        "| what | ms / image | ms / call | first call, s |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['name']} | {1e3 * row['seconds_per_image']:.3g} | {1e3 * row['seconds']:.4g} | "
        f"{row['first_call_seconds']:.1f} |"
        for row in result["rows"]
    ]
    lines += [
        "",
        f"{result['pairs_per_second']:.0f} pairs per second, {result['flow_map_share']:.0%} of it "
        f"in the flow map; peak memory {result['peak_memory_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def main(config: Config) -> None:
    """Print the table and the JSON."""
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if output and output.exists():
        raise UserError(f"--output={output} exists already; name another file")
    result = benchmark(config, _BATCH.value, _REPEATS.value)
    print(table(result), json.dumps(result), sep="\n\n")
    if output:
        workdir.write_json(output, result)


if __name__ == "__main__":
    cli.start(main)

"""Benchmark: seconds an image, a training step, a pair: `python -m ddjax.benchmark --config=...`.

Models of the config's sizes, with random weights where it names none that are there, on all
devices, in steady state, compilation apart. Ratios between rows of one run mean something, seconds
of two runs on a busy machine do not.
"""

import functools
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
from absl import flags

from ddjax import cli
from ddjax.benchmark import programs, report
from ddjax.benchmark.report import ENCODING, MEASURING, READING, TRAINING
from ddjax.config.schema import Config
from ddjax.data.conditions import CaptionTexts
from ddjax.pipeline import Pipeline
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files

_BATCH = flags.DEFINE_list("batch", ["64"], "Images at once on a device, one or more: 1,8")
_TRAIN_BATCH = flags.DEFINE_integer(
    "train_batch", None, "Of the training step; the config's", lower_bound=1
)
_ONLY = flags.DEFINE_list("only", [], "Rows to measure; all by default")
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


def benchmark(config: Config) -> dict[str, Any]:
    """All rows asked for, and how much memory the process took."""
    models, frozen = programs.load(config)
    conditions, rows, todo = programs.conditions(config), [], []
    for batch in _batches():
        parts = models._asdict() | {"sizes": config.teacher.model}
        pipe = Pipeline(
            parts.get, config.sampling, conditions, batch, jax.local_devices()
        )
        todo += [(name, batch, call) for name, call in programs.drawing(config, pipe).items()]
        todo.append((MEASURING, batch, programs.measuring(config, pipe)))
    train_batch = _TRAIN_BATCH.value or config.distill.train.batch
    programs.check_batch(config, train_batch)
    training = functools.partial(programs.training_rows, config, conditions)
    todo.append((
        TRAINING, train_batch,
        programs.training_step(config, models, frozen, training(train_batch)),
    ))
    if isinstance(conditions, CaptionTexts):
        todo.append((ENCODING, train_batch, programs.encoding(conditions, train_batch)))
    if _is_installed("grain", "array_record"):
        todo.append((READING, train_batch, programs.reading(config, train_batch)))
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
            images = batch if name in (TRAINING, READING, ENCODING) else batch * sharding.devices()
            rows.append({**row, "seconds_per_image": row["seconds"] / images})
    report.add_ratios(
        rows, lambda batch: programs.training_flops(config, models, frozen, training(batch))
    )
    return {
        "config": config.name,
        "weights": {
            name: programs.weights(getattr(config, name)) for name in ("teacher", "tokenizer")
        },
        "device": report.device(),
        "devices": sharding.devices(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "command": " ".join(["python -m ddjax.benchmark", *sys.argv[1:]]),
        "peak_memory_mb": report.peak_memory_mb(),
        "rows": rows,
    }


def _is_installed(*packages: str) -> bool:
    try:
        for package in packages:
            importlib.import_module(package)
    except ModuleNotFoundError:
        return False
    return True


def _batches() -> list[int]:
    try:
        batches = [int(text) for text in _BATCH.value]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"--batch={','.join(_BATCH.value)}: give whole numbers from 1, such as 1,8")
    return batches


def main(config: Config) -> None:
    """Print the table and the JSON."""
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if output and output.exists():
        raise UserError(f"--output={output} exists already; name another file")
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        result = benchmark(config)
    print(report.table(result), json.dumps(result), sep="\n\n")
    if output:
        files.write_json(output, result)


if __name__ == "__main__":
    cli.start(main)

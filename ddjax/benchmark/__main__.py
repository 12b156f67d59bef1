"""Benchmark: seconds an image, a training step, a pair: `python -m ddjax.benchmark --config=...`.

Models of the config's sizes, with random weights where it names none that are there, on all
devices, in steady state, compilation apart. Ratios between rows of one run mean something, seconds
of two runs on a busy machine do not.

    python -m ddjax.benchmark --config=configs/llamagen.py:B --batch=1,8
    python -m ddjax.benchmark --against=torch
    python -m ddjax.benchmark --suite=gpu --output=docs/benchmarks/

`--against=torch` compares with PyTorch modules of the same sizes and weights, in turns, on the CPU;
LlamaGen-B, VAR-d16 and Inception where no config is given. `--suite=gpu` checks the numbers of an
accelerator and measures the published sizes on it, part by part (`ddjax.benchmark.suite`).
"""

import functools
import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from ddjax import cli
from ddjax.benchmark import programs, published, report, suite
from ddjax.benchmark.report import ENCODING, MEASURING, READING, TRAINING
from ddjax.benchmark.timing import timed
from ddjax.config.schema import Config
from ddjax.data.conditions import CaptionTexts
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files

_BATCH = flags.DEFINE_list(
    "batch", None, "Images at once on a device, one or more: 1,8; 64 by default, with --against 1,8"
)
_TRAIN_BATCH = flags.DEFINE_integer(
    "train_batch", None, "Of the training step; the config's", lower_bound=1
)
_ONLY = flags.DEFINE_list("only", [], "Rows to measure; all by default")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the median counts", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Write the JSON here too; must not exist. With --suite the folder for the "
    "results of its parts; those that it has are not measured again"
)
_AGAINST = flags.DEFINE_enum("against", None, ["torch"], "Compare with PyTorch, on the CPU")
_COMPILE = flags.DEFINE_bool("compile", False, "With --against: time torch.compile's passes too")
_SUITE = flags.DEFINE_enum(
    "suite", None, list(suite.SUITES), "gpu: the published sizes; tiny: to see that it works"
)
_MINUTES = flags.DEFINE_float(
    "minutes", 8, "With --suite: after so many no part is begun; start again for the rest"
)


def benchmark(config: Config) -> dict[str, Any]:
    """All rows asked for, and how much memory the process took."""
    models, frozen = programs.load(config)
    conditions, rows, todo = programs.conditions(config), [], []
    for batch in _batches("64"):
        pipe = programs.pipeline(config, models, conditions, batch, jax.local_devices())
        todo += [(name, batch, call) for name, call in programs.drawing(config, pipe).items()]
        todo.append((MEASURING, batch, programs.measuring(config, pipe)))
    train_batch = _TRAIN_BATCH.value or config.distill.train.batch
    programs.check_batch(config, train_batch)
    training = functools.partial(programs.training_rows, config, conditions)
    todo.append((
        TRAINING, train_batch,
        programs.training_step(config, models, frozen, lambda: training(train_batch)),
    ))
    if isinstance(conditions, CaptionTexts):
        todo.append((ENCODING, train_batch, programs.encoding(conditions, train_batch)))
    if _is_installed("grain", "array_record"):
        todo.append((READING, train_batch, programs.reading(config, train_batch)))
    else:
        print(f"{READING}: not measured, Grain is not installed", file=sys.stderr)
    _check_only(list(dict.fromkeys(name for name, _, _ in todo)))
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
        **programs.described(config),
        **report.about(),
        "command": _command(),
        "peak_memory_mb": report.peak_memory_mb(),
        "rows": rows,
    }


def against_torch(config: Config | None) -> tuple[dict[str, Any], str]:
    """What `--against=torch` finds, and its table."""
    if jax.default_backend() != "cpu":
        raise UserError("--against=torch compares on the CPU; set JAX_PLATFORMS=cpu")
    try:
        from ddjax.benchmark.against_torch import comparison
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            "--against=torch needs PyTorch, which is missing; pip install -e '.[convert]'"
        ) from None
    configs = [config] if config else [
        published.in_dtype(published.read(name), "float32") for name in ("llamagen:B", "var:d16")
    ]
    known = [*comparison.ROWS, *([] if config else [comparison.FEATURES])]
    _check_only(known)
    only = set(_ONLY.value or known)
    how, found = (_batches("1,8"), _REPEATS.value, _COMPILE.value), []
    for one in configs if only - {comparison.FEATURES} else []:
        found.append(comparison.measure(one, only, *how))
        jax.clear_caches()
    if comparison.FEATURES in only:
        found.append(comparison.measure_features(*how))
    about = {**report.about(), "torch": comparison.torch.__version__, "command": _command()}
    return {**about, "results": found}, comparison.table(found)


def _check_only(known: list[str]) -> None:
    unknown = [name for name in _ONLY.value if name not in known]
    if unknown:
        raise UserError(f"--only={unknown[0]} is no row; known are {', '.join(known)}")


def _command() -> str:
    return " ".join(["python -m ddjax.benchmark", *map(shlex.quote, sys.argv[1:])])


def _is_installed(*packages: str) -> bool:
    try:
        for package in packages:
            importlib.import_module(package)
    except ModuleNotFoundError:
        return False
    return True


def _batches(default: str) -> list[int]:
    given = _BATCH.value or default.split(",")
    try:
        batches = [int(text) for text in given]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"--batch={','.join(given)}: give whole numbers from 1, such as 1,8")
    return batches


def main(config: Config | None) -> None:
    """Print the table and the JSON."""
    if _SUITE.value:
        if config or not _OUTPUT.value:
            raise UserError("--suite needs --output=FOLDER, and takes no --config")
        suite.run(_SUITE.value, Path(_OUTPUT.value), 60 * _MINUTES.value, _command())
        return
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if output and output.exists():
        raise UserError(f"--output={output} exists already; name another file")
    if _AGAINST.value:
        result, table = against_torch(config)
    elif config is None:
        raise UserError(
            "--config is missing; give a file such as --config=configs/digits.py, or --against or "
            "--suite"
        )
    else:
        with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
            result = benchmark(config)
        table = report.table(result)
    print(table, json.dumps(result), sep="\n\n")
    if output:
        files.write_json(output, result)


if __name__ == "__main__":
    cli.start(main, optional=True)

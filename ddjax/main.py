"""Run the stages that a config names: `python -m ddjax.main --config=configs/digits.py`."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

from ddjax import cli, workdir
from ddjax.config import STAGES, Config

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG by default"
)


def main(config: Config) -> None:
    """Run the stages in their order, in the workdir of the flag."""
    begin = time.perf_counter()
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # So that a run that goes on after a stop compiles nothing again.
        jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compilation_cache"))
    for name in STAGES:
        if name in config.stages:
            _run_stage(config, root, name)
    print(f"{'total':<10} {time.perf_counter() - begin:.0f} s in {root}", flush=True)


def _run_stage(config: Config, root: Path, name: str) -> None:
    # Here, not at the top: a wrong config is refused before the slow imports.
    from ddjax import distill, evaluate, pairs, sample, teacher, tokenizer

    before, folder = STAGES[: STAGES.index(name)], name
    if name == "sample":
        before, folder = sample.needs(config.sample_method()), sample.folder(config)
    seconds = 0.0
    for needed in before:
        earlier = workdir.Stage(root, needed, workdir.settings(config, needed))
        earlier.require()
        seconds += earlier.finished["seconds"]
    stages: dict[str, Callable] = {
        "tokenizer": tokenizer.run,
        "teacher": teacher.run,
        "pairs": pairs.run,
        "distill": distill.run,
        "evaluate": functools.partial(evaluate.run, seconds_before=seconds),
        "sample": sample.run,
    }
    stage = workdir.Stage(root, folder, workdir.settings(config, name))
    workdir.run_stage(stage, lambda: stages[name](config, stage))


if __name__ == "__main__":
    cli.start(main)

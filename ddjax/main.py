"""Run the stages that a config names: `python -m ddjax.main --config=configs/digits.py`."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

from ddjax import cli, hosts, parts, sharding, workdir
from ddjax.config import STAGES, Config

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG by default"
)


def main(config: Config) -> None:
    """Run the stages in their order, in the workdir of the flag."""
    begin = time.perf_counter()
    hosts.join(config.hosts)
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # So that a run that goes on after a stop compiles nothing again.
        jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compilation_cache"))
    todo = [name for name in STAGES if name in config.stages]
    for name in todo:
        workdir.settings(config, name)  # a missing model folder is told now, not hours later
    hosts.check_shared(root)
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        for name in todo:
            _run_stage(config, root, name)
    hosts.say(f"{'total':<10} {time.perf_counter() - begin:.0f} s in {root}")


def _run_stage(config: Config, root: Path, name: str) -> None:
    # Here, not at the top: a wrong config is refused before the slow imports.
    from ddjax import distill, evaluate, pairs, sample, teacher, tokenizer

    given = parts.given(config)
    if name in given:
        hosts.say(f"{name:<10} not run: config.{given[name]}.weights is given")
        return
    for needed in workdir.reads(config, name):
        if needed not in given:
            workdir.Stage(root, needed, workdir.settings(config, needed)).require()
    stages: dict[str, Callable[[Config, workdir.Stage], str]] = {
        "tokenizer": tokenizer.run, "teacher": teacher.run, "pairs": pairs.run,
        "distill": distill.run, "evaluate": evaluate.run, "sample": sample.run,
    }
    folder = sample.folder(config) if name == "sample" else name
    stage = workdir.Stage(root, folder, workdir.settings(config, name))
    workdir.run_stage(stage, lambda: stages[name](config, stage))


if __name__ == "__main__":
    cli.start(main)

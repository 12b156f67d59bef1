"""Main command, runs the stages of a config: `python -m ddjax.main --config=configs/digits.py`."""

import dataclasses
import time
from pathlib import Path

import jax
from absl import flags

from ddjax import cli
from ddjax.config.schema import Config
from ddjax.runtime import hosts, sharding
from ddjax.stages import registry, running

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG by default"
)


def main(config: Config) -> None:
    """Run the stages in their order, in the workdir of the flag."""
    begin = time.perf_counter()
    stages = registry.chosen(config)
    hosts.join(**dataclasses.asdict(config.hosts))
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    cli.keep_programs(root)
    for stage in stages:
        running.settings(config, stage)  # a missing model folder is reported now, not hours later
    hosts.check_shared(root)
    with jax.set_mesh(sharding.make_mesh(config.mesh.fsdp)):
        for stage in stages:
            running.run(config, root, stage)
    hosts.print_once(f"{'total':<10} {time.perf_counter() - begin:.0f} s in {root}")


if __name__ == "__main__":
    cli.start(main)

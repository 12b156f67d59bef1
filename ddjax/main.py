"""Main command, runs the stages of a config: `python -m ddjax.main --config=configs/digits.py`."""

import time
from pathlib import Path

from absl import flags

from ddjax import cli
from ddjax.config.schema import Config
from ddjax.runtime import hosts
from ddjax.stages import registry, running

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything goes; runs/NAME-OF-CONFIG by default"
)


def main(config: Config) -> None:
    """Run the stages in their order, in the workdir of the flag."""
    begin = time.perf_counter()
    stages = registry.chosen(config)
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    running.prepare(config, root)
    running.run_all(config, root, stages)
    hosts.print_once(f"{'total':<10} {time.perf_counter() - begin:.0f} s in {root}")


if __name__ == "__main__":
    cli.start(main)

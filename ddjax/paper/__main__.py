"""Paper command: the published tables beside the rows of a workdir.

    python -m ddjax.paper --config=configs/llamagen.py:L --workdir=runs/llamagen_L

`--make` first runs the stages that rows are missing of.
"""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from ddjax import cli
from ddjax.config import reading
from ddjax.config.schema import Config
from ddjax.paper import figures, table
from ddjax.runtime import hosts
from ddjax.runtime.errors import UserError
from ddjax.stages import registry, running
from ddjax.stages.registry import STAGES, Stage
from ddjax.storage.workdir import Folder

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run; runs/NAME-OF-CONFIG by default")
_MAKE = flags.DEFINE_bool("make", False, "Make the rows that are missing")


def main(config: Config) -> None:
    """Print the tables; with --make after making what is missing."""
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    published = figures.rows_of(config)
    if _MAKE.value:
        make(config, root, published)
    if not hosts.is_first():
        return
    ours = table.read(root)
    print(table.text(published, ours))
    if names := table.missing(published, ours):
        print("\n" + how_to_make(config, root, published, names))


def make(config: Config, root: Path, published: tuple[figures.Published, ...]) -> None:
    """Run the stages that the rows need, unless all rows are there.

    Raises:
      UserError: the stage evaluate has finished without some of them.
    """
    names = table.missing(published, table.read(root))
    if not names:
        return
    if _evaluated(root):
        raise UserError(
            f"{root / 'evaluate'} has finished without {', '.join(names)}; move it aside and "
            "start the same command again"
        )
    whole = with_methods(config, published)
    running.prepare(whole, root)
    running.run_all(whole, root, stages(whole))


def how_to_make(
    config: Config, root: Path, published: tuple[figures.Published, ...], names: list[str]
) -> str:
    """Which rows are missing, and the command that makes them.

    Args:
      config: of the run.
      root: the workdir.
      published: all rows.
      names: of the methods that are missing.
    """
    given = [arg for arg in sys.argv[1:] if not arg.startswith(("--make", "-make", "--nomake"))]
    whole = with_methods(config, published)
    command = " ".join([
        "python -m ddjax.main", *given,
        f"--config.stages={','.join(stage.name for stage in stages(whole))}",
        f"--config.evaluate.methods={','.join(whole.evaluate.methods)}",
    ])
    aside = f"move {root / 'evaluate'} aside, which has finished without them, and run: "
    return f"Not yet made: {', '.join(names)}. To make them, " \
        f"{aside if _evaluated(root) else 'run: '}{command}\n(or this command with --make)"


def with_methods(config: Config, published: tuple[figures.Published, ...]) -> Config:
    """A config that evaluates its own methods and those of the published rows.

    Raises:
      UserError: its student cannot be sampled in one of these ways.
    """
    methods = dict.fromkeys((*config.evaluate.methods, *(row.method for row in published)))
    evaluate = dataclasses.replace(config.evaluate, methods=tuple(methods))
    return reading.from_dict(reading.plain(dataclasses.replace(config, evaluate=evaluate)))


def stages(config: Config) -> list[Stage]:
    """The stage evaluate, and those before it that it needs and no model folder replaces."""
    needed, todo = {"evaluate"}, [STAGES["evaluate"]]
    for one in todo:
        for stage in registry.reads(config, one):
            given = stage.model and getattr(config, stage.model).weights
            if stage.name not in needed and not given:
                needed.add(stage.name)
                todo.append(stage)
    return [stage for stage in STAGES.values() if stage.name in needed]


def _evaluated(root: Path) -> bool:
    return Folder(root / "evaluate", {}).finished is not None


if __name__ == "__main__":
    cli.start(main)

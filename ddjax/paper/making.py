"""Making of rows: the stages that published rows need, and the command that runs them."""

import dataclasses
import shlex
from pathlib import Path

from ddjax.config import reading
from ddjax.config.schema import Config
from ddjax.paper import table
from ddjax.paper.figures import Published
from ddjax.runtime.errors import UserError
from ddjax.stages import registry, running
from ddjax.storage.workdir import Folder


def make(config: Config, root: Path, published: tuple[Published, ...]) -> None:
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
    running.run_all(whole, root, registry.for_evaluation(whole))


def how_to(
    config: Config, root: Path, published: tuple[Published, ...], given: list[str]
) -> str:
    """Which rows are missing, and the command that makes them.

    Args:
      config: of the run.
      root: the workdir.
      published: all rows.
      given: the flags of this command.
    """
    names, whole = table.missing(published, table.read(root)), with_methods(config, published)
    stages = registry.for_evaluation(whole)
    command = " ".join([
        "python -m ddjax.main", *map(shlex.quote, given),
        f"--config.stages={','.join(stage.name for stage in stages)}",
        f"--config.evaluate.methods={','.join(whole.evaluate.methods)}",
    ])
    aside = f"move {root / 'evaluate'} aside, which has finished without them, and "
    return f"Not yet made: {', '.join(names)}. To make them, " \
        f"{aside if _evaluated(root) else ''}run: {command}\n(or this command with --make)"


def with_methods(config: Config, published: tuple[Published, ...]) -> Config:
    """A config that evaluates its own methods and those of the published rows.

    Raises:
      UserError: its student cannot be sampled in one of these ways.
    """
    methods = dict.fromkeys((*config.evaluate.methods, *(row.method for row in published)))
    evaluate = dataclasses.replace(config.evaluate, methods=tuple(methods))
    return reading.from_dict(reading.plain(dataclasses.replace(config, evaluate=evaluate)))


def _evaluated(root: Path) -> bool:
    return Folder(root / "evaluate", {}).finished is not None

"""Paper command: the published tables beside the rows of a workdir.

    python -m ddjax.paper --config=configs/llamagen.py:L --workdir=runs/llamagen_L

`--make` first runs the stages that rows are missing of.
"""

import sys
from pathlib import Path

from absl import flags

from ddjax import cli
from ddjax.config.schema import Config
from ddjax.paper import figures, making, table
from ddjax.runtime import hosts

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run; runs/NAME-OF-CONFIG by default")
_MAKE = flags.DEFINE_bool("make", False, "Make the rows that are missing")


def main(config: Config) -> None:
    """Print the tables; with --make after making what is missing."""
    root = Path(_WORKDIR.value or f"runs/{config.name}")
    published = figures.rows_of(config)
    if _MAKE.value:
        making.make(config, root, published)
    if not hosts.is_first():
        return
    ours = table.read(root)
    print(table.text(published, ours))
    if table.missing(published, ours):
        given = [arg for arg in sys.argv[1:] if not arg.startswith(("--make", "-make"))]
        print("\n" + making.how_to(config, root, published, given))


if __name__ == "__main__":
    cli.start(main)

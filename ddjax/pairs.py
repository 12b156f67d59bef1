"""Pair store maintenance: `python -m ddjax.pairs verify WORKDIR`, or `repair`.

`verify` names every shard that is missing, damaged or not in the manifest; `repair` makes just
those again, bit-equal to what they were, and keeps what was under their names.
"""

from pathlib import Path

from ddjax import cli
from ddjax.runtime.errors import UserError
from ddjax.stages import pairs


def main(command: str, folder: str) -> None:
    """`verify` or `repair` the pairs of a workdir."""
    commands = {"verify": pairs.verify, "repair": pairs.repair}
    if command not in commands:
        raise UserError(f"{command}: unknown command; known are {', '.join(commands)}")
    print(commands[command](Path(folder)))


if __name__ == "__main__":
    cli.run(main, "COMMAND", "WORKDIR")

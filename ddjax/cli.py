"""What the commands share: the config flag, and errors as one line."""

import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ddjax import files, hosts, preemption
from ddjax.config import Config
from ddjax.config_file import from_dict
from ddjax.errors import UserError


def start(command: Callable[[Config], None]) -> None:
    """Parse the flags and run a command with the config that --config names; see `run`."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "Which config, such as configs/digits.py"
    )
    flags.mark_flag_as_required("config")
    run(lambda: command(from_dict(_read_config(holder))))


def run(command: Callable[..., None], *arguments: str) -> None:
    """Parse the flags and run a command.

    What the user can mend ends in one line and exit code 1, SIGTERM in one line and
    `preemption.EXIT_CODE`.

    Args:
      command: takes the arguments that are no flags.
      arguments: their names.
    """

    def guarded(argv: list[str]) -> None:
        given = argv[1:]
        if len(given) > len(arguments):
            sys.exit(f"error: unknown arguments: {' '.join(given[len(arguments):])}")
        if len(given) < len(arguments):
            sys.exit(f"error: missing arguments: {' '.join(arguments[len(given):])}")
        preemption.watch()
        try:
            command(*given)
        except preemption.Preempted:
            print("stopped by SIGTERM; the same command goes on from here", file=sys.stderr)
            hosts.leave(preemption.EXIT_CODE)
        except UserError as error:
            hosts.leave(f"error: {_one_line(error)}")
        except Exception as error:
            if not files.is_disk_full(error):
                if not jax.distributed.is_initialized():
                    raise
                traceback.print_exc()
                hosts.leave(1)
            hosts.leave(
                "error: the disk is full; nothing is lost. Make room and start the same command "
                f"again ({str(error).splitlines()[0]})"
            )

    sys.unraisablehook = _unraisable
    # What libraries log as an error they raise as well, and it is told once, where it is caught.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=_parse)


def _unraisable(found: Any) -> None:
    """As Python does, but for SIGTERM, and TensorStore, which calls a loop that Orbax closed."""
    if isinstance(found.exc_value, preemption.Preempted):
        preemption.deliver_again()
    elif str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _one_line(error: Exception) -> str:
    """Without what a strange name in a file may hold: line ends, codes for the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))


def _read_config(holder: flags.FlagHolder) -> dict:
    try:
        return holder.value.to_dict()
    except OSError as error:  # ml_collections keeps a failed load for the first use
        raise UserError(f"--config: {' '.join(str(error).split())}") from None


def _parse(argv: list[str]) -> list[str]:
    """As absl does, but every wrong flag is one line."""
    try:
        return flags.FLAGS(argv)
    except (UserError, flags.Error, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except (AttributeError, KeyError, TypeError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        sys.exit(f"error: {_unknown_key(argv, error)}")


def _unknown_key(argv: list[str], error: Exception) -> str:
    names = re.findall(r"\w+", str(error))
    for arg in argv:
        for key in re.findall(r"\.(\w+)", arg.split("=")[0]):
            if arg.startswith("--config.") and key in names:
                return f"{arg}: the config has no key {key!r} there"
    return f"a --config. flag names a key that the config does not have ({error})"

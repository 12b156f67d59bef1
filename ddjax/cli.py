"""Command line: the config flag, and errors as one line; what all commands share."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from absl import app, flags, logging

from ddjax.config import schema
from ddjax.config.reading import from_dict
from ddjax.config.schema import Config
from ddjax.runtime import hosts, preemption
from ddjax.runtime.errors import UserError
from ddjax.storage import files

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_EXAMPLE = "give a file such as --config=configs/digits.py"


def start(command: Callable[[Config | None], None], *, optional: bool = False) -> None:
    """Parse the flags and run a command with the config that --config names; see `run`.

    Args:
      command: takes the config.
      optional: whether it may be called without --config, and is then given None; where
        ml_collections, which reads that flag, is not installed, it always is.
    """
    try:
        from ml_collections import config_flags
    except ModuleNotFoundError:
        if not optional:
            raise
        run(lambda: command(None))
        return
    holder = config_flags.DEFINE_config_file(
        "config", None, "Which config, such as configs/digits.py"
    )
    flags.FLAGS["config"].parser = _ConfigFile()

    def with_config() -> None:
        left_out = optional and holder.value is None
        command(None if left_out else from_dict(_read_config(holder)))

    run(with_config)


def run(command: Callable[..., None], *arguments: str) -> None:
    """Parse the flags and run a command.

    User errors end in one line and exit code 1, SIGTERM and Ctrl-C in one line and
    `Preempted.exit_code`.

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
        except preemption.Preempted as stop:
            print(f"stopped by {stop}; start the same command again to go on", file=sys.stderr)
            hosts.exit_process(stop.exit_code)
        except UserError as error:
            hosts.exit_process(f"error: {_one_line(error)}")
        except Exception as error:
            if line := _for_people(error):
                hosts.exit_process(f"error: {line}")
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()
            hosts.exit_process(1)

    sys.unraisablehook = _unraisable
    # What libraries log as an error they raise as well; it is reported once, where it is caught.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=_parse)


def _for_people(error: Exception) -> str:
    """A line about an error of the environment (disk, memory, permissions), or ""."""
    first = str(error).split("\n")[0]
    if files.is_disk_full(error):
        return (
            "the disk is full; nothing is lost. Make room and start the same command again "
            f"({first})"
        )
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in first:
        return (
            f"the device has not enough memory ({first}); lower the batch of the stage, raise "
            "config.distill.train.accumulate or config.mesh.fsdp, or ask ddjax.plan what fits"
        )
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in first:
        return (
            f"the accelerator cannot be used ({first}); another program may hold it. Wait, or "
            "compute on the CPU with JAX_PLATFORMS=cpu"
        )
    if isinstance(error, MemoryError):
        return f"this machine has not enough memory ({first}); reduce the batch"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return ""


def _unraisable(found: Any) -> None:
    """As Python does, but for signals, and TensorStore, which calls a loop that Orbax closed."""
    if isinstance(found.exc_value, preemption.Preempted):
        preemption.deliver_again(found.exc_value.number)
    elif str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _one_line(error: Exception | str) -> str:
    """Without what a strange name in a file may hold: line ends, codes for the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(error).split()))


def _read_config(holder: flags.FlagHolder) -> dict:
    if holder.value is None:
        raise UserError(f"--config is missing; {_EXAMPLE}")
    return holder.value.to_dict()


class _ConfigFile(flags.ArgumentParser):
    """FILE.py, or FILE.py:ARGUMENT for its get_config; whatever is wrong with it is one line."""

    def parse(self, argument: str) -> ConfigDict:
        """The config that the file gives, which overrides may not add keys to."""
        from ml_collections import ConfigDict

        file, *behind = argument.split(":", 1)
        if not Path(file).is_file():
            raise UserError(f"--config={argument} cannot be read; {_EXAMPLE}")
        try:
            make = runpy.run_path(file)["get_config"]
            if behind and not inspect.signature(make).parameters:
                raise UserError(f"--config={argument}: this config takes nothing behind a colon")
            found = make(*behind)
        except (UserError, preemption.Preempted):
            raise
        except Exception as error:
            raise UserError(f"--config={argument}: {_why(file, error)}; {_EXAMPLE}") from None
        if not isinstance(found, ConfigDict):
            raise UserError(
                f"--config={argument}: get_config gave {found!r}, must be what "
                "ddjax.config.complete makes of its keys"
            )
        return found.lock()


def _why(file: str, error: Exception) -> str:
    """Where and why a config file fails."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"line {error.lineno} has a syntax error ({error.msg})"
    if isinstance(error, KeyError) and error.args == ("get_config",):
        return "it has no get_config"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    where = f"line {lines[-1]}" if lines else "it"
    return f"{where} fails ({type(error).__name__}: {_one_line(error)})"


def _parse(argv: list[str]) -> list[str]:
    """As absl does, but every wrong flag is one line."""
    try:
        return flags.FLAGS(argv)
    except (UserError, flags.Error, OSError) as error:
        missing = r"--\1 is missing; --help says what it takes"
        text = re.sub(r"^flag --(\w+)=None: .*", missing, str(error))
        text = re.sub(r"invalid literal for int.*: ", "expected a whole number, got ", text)
        text = text.replace("could not convert string to float:", "expected a number, got")
        sys.exit(f"error: {_one_line(text)}")
    except (AttributeError, KeyError, TypeError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        sys.exit(f"error: {_unknown_key(argv, error)}")


def _keys() -> set[str]:
    classes = filter(dataclasses.is_dataclass, vars(schema).values())
    return {field.name for cls in classes for field in dataclasses.fields(cls)}


def _unknown_key(argv: list[str], error: Exception) -> str:
    names = re.findall(r"\w+", str(error))
    for arg in argv:
        for key in re.findall(r"\.(\w+)", arg.split("=")[0]):
            if arg.startswith("--config.") and key in names:
                close = difflib.get_close_matches(key, _keys(), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                return f"{arg}: the config has no key {key!r} there{hint}"
    return f"a --config. flag names a key that the config does not have ({error})"

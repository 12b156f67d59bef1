"""The workdir: one folder a stage, with the settings that made it; atomic files.

Nothing is ever overwritten or mixed: a stage whose folder was made by other settings is refused,
and a file has its final name only once it is whole.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ddjax.config import Config
from ddjax.errors import UserError

# The parts of the config that decide what a stage makes.
_PARTS = {
    "tokenizer": ("data", "tokenizer"),
    "teacher": ("data", "tokenizer", "teacher"),
    "pairs": ("data", "tokenizer", "teacher", "guidance", "flow", "pairs"),
}
_PARTS["distill"] = (*_PARTS["pairs"], "student", "distill")
_PARTS["evaluate"] = (*_PARTS["distill"], "evaluate")
_PARTS["sample"] = (*_PARTS["distill"], "sample")

# Keys that change how a stage runs but not what comes out.
_NEUTRAL = ("log_every", "checkpoint_every", "keep", "directory")


def settings(config: Config, stage: str) -> dict[str, Any]:
    """The keys and values that decide what a stage makes, flat: {"teacher.model.width": 96}."""
    tree = dataclasses.asdict(config)
    flat = {"seed": config.seed}
    for part in _PARTS[stage]:
        flat.update(_flatten(tree[part], part))
    return json.loads(json.dumps(flat))


def _flatten(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield where, tree
        return
    for key, value in tree.items():
        if key not in _NEUTRAL:
            yield from _flatten(value, f"{where}.{key}")


class Stage:
    """The folder of one stage: `settings.json`, `finished.json` once it is done, its output."""

    def __init__(self, workdir: Path, name: str, stage_settings: dict[str, Any]) -> None:
        self.name = name
        self.directory = workdir / name
        self._settings = stage_settings

    @property
    def finished(self) -> dict[str, Any] | None:
        """What `finish` recorded, or None."""
        return _read_json(self.directory / "finished.json")

    def begin(self) -> None:
        """Make the folder, or check that what is there was made by these settings.

        Raises:
          UserError: it was made by others; says which keys differ.
        """
        self._check(ignore=())
        if not (self.directory / "settings.json").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / "settings.json", self._settings)

    def require(self) -> Path:
        """The folder of a finished stage that this run only reads.

        The seed may be another: `--config.stages=sample --config.seed=5` draws other images from
        the same student.

        Raises:
          UserError: not there, not finished, or made by other settings.
        """
        self._check(ignore=("seed",))
        if self.finished is None:
            raise UserError(
                f"{self.directory}: stage {self.name} has not finished; run it first "
                f"(add {self.name} to config.stages)"
            )
        return self.directory

    def finish(self, summary: str, seconds: float) -> None:
        """Record that the output is whole."""
        write_json(
            self.directory / "finished.json", {"summary": summary, "seconds": round(seconds, 2)}
        )

    def _check(self, ignore: tuple[str, ...]) -> None:
        there = _read_json(self.directory / "settings.json")
        if there is None:
            return
        keys = sorted(there.keys() | self._settings.keys())
        different = [
            f"{key} (there {there.get(key)!r}, now {self._settings.get(key)!r})"
            for key in keys
            if key not in ignore and there.get(key) != self._settings.get(key)
        ]
        if different:
            raise UserError(
                f"{self.directory} was made by other settings: {', '.join(different)}; use those, "
                "or another --workdir"
            )


def run_stage(stage: Stage, make: Callable[[], str]) -> None:
    """Run a stage unless it is finished; print one line about it."""
    stage.begin()
    name, done = stage.name.split("/")[0], stage.finished
    if done is not None:
        print(f"{name:<10} finished before: {done['summary']}", flush=True)
        return
    start = time.perf_counter()
    summary = make()
    seconds = time.perf_counter() - start
    stage.finish(summary, seconds)
    print(f"{name:<10} {summary}  ({seconds:.0f} s)", flush=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path; what is written there appears at `path` when all went well.

    Works for a file and for a folder. On failure nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path}: not readable as JSON; the file was damaged") from None


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, ours or a library's, comes from a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if "No space left on device" in str(error):
        return True
    # PyTorch's writer fails once more while it closes, and hides the first failure behind that.
    return error.__context__ is not None and is_disk_full(error.__context__)

"""Files: atomic writes, locks, digests, quarantine of damaged files."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddjax.runtime.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path; what is written there appears at `path` when all went well.

    Works for a file and for a folder. On failure nothing is left; what a process left that was
    killed here before is removed.
    """
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        of_any_process = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
        for left in path.parent.iterdir():
            if of_any_process.fullmatch(left.name):
                _remove(left)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _remove(temporary)
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise


@contextlib.contextmanager
def locked(path: Path, otherwise: str = "use another --workdir") -> Iterator[None]:
    """Hold a lock file, which stays; the system lets go of it when the process ends in any way.

    Args:
      path: of the file.
      otherwise: what one can do but wait.

    Raises:
      UserError: another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path.parent}: another run is at work there; wait for its end, or {otherwise}"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> Exception:
    return error if is_disk_full(error) else UserError(f"{path} cannot be written ({error})")


def quarantine(path: Path, folder: Path | None = None) -> Path:
    """Give what is at `path` the first free name of NAME.damaged-1, -2, ...; returns that.

    In the same folder, or in another of the same file system.
    """
    folder = folder or path.parent
    names = (folder / f"{path.name}.damaged-{i}" for i in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def _sync(path: Path) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: Path, advice: str = "") -> dict[str, Any] | None:
    """The keys and values that a JSON file holds, or None if there is no file.

    Raises:
      UserError: it is damaged, or holds something else; says the advice.
    """
    try:
        found = json.loads(path.read_text())
        what = "" if isinstance(found, dict) else "is not a JSON object"
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        what = "not readable as JSON"
    if what:
        what = f"{path}: {what}; the file was damaged"
        raise UserError(f"{what}; {advice}" if advice else what)
    return found


def write_json_with_digest(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that holds its own digest."""
    write_json(path, {**content, "sha256": content_digest(content)})


def read_json_with_digest(
    path: Path, advice: str, keys: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """What `write_json_with_digest` wrote, or None if there is no file.

    Args:
      path: of the file.
      advice: what to do where it is damaged.
      keys: that it must have.

    Raises:
      UserError: it is damaged, or another file of ours was put in its place.
    """
    try:
        found = read_json(path)
        if found is None:
            return None
        whole = found.pop("sha256", None) == content_digest(found)
    except UserError:
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: it does not have its digest; {advice}")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{path} has no key {missing[0]}; {advice}")
    return found


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of what a JSON file holds, however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_digest(path: Path, key: str) -> str:
    """SHA-256 of a file that a user names by a key of the config.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return digest(path)
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror}); name a file") from None


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, ours or a library's, comes from a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if "No space left on device" in str(error):
        return True
    # PyTorch's writer fails once more while it closes, and hides the first failure behind that.
    return error.__context__ is not None and is_disk_full(error.__context__)

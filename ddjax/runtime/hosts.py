"""Multi-host runs: several processes, on one machine or many, that make up one run.

All of them run the same stages in the same order; the first writes the shared files. The
workdir must be on a file system that all of them see.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddjax.runtime.errors import UserError

T = TypeVar("T")


def join(coordinator: str, count: int, index: int) -> None:
    """Find the other processes, if there are to be any; before any device is used.

    Args:
      coordinator: "" for one process, "auto" where JAX finds the others, else HOST:PORT.
      count: of processes.
      index: of this one.

    Raises:
      UserError: they cannot be found.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Pretended devices wait for each other's messages on the threads of one pool, by default
        # as many as there are cores: too few, and they wait for ever.
        os.environ.setdefault("NPROC", "64")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not coordinator:
        return
    explicit = (coordinator, count, index)
    try:
        jax.distributed.initialize(*(() if coordinator == "auto" else explicit))
    except (RuntimeError, ValueError) as error:
        if coordinator == "auto":
            advice = "outside of TPU pods, SLURM and GKE, give HOST:PORT, hosts.count, hosts.index"
        else:
            advice = (
                f"start {count} of them with the same coordinator and count, each with an "
                "index of its own"
            )
        raise UserError(
            f"config.hosts.coordinator={coordinator}: the other processes were not found "
            f"({' '.join(str(error).split())}); {advice}"
        ) from None


def is_first() -> bool:
    """Whether this is process 0, which writes the shared files."""
    return jax.process_index() == 0


def barrier(purpose: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def share(items: Sequence[T]) -> Sequence[T]:
    """Those that are assigned to this process."""
    return items[jax.process_index() :: jax.process_count()]


def of_first(values: dict[str, float]) -> dict[str, float]:
    """What the first process has found, so that all decide alike."""
    if jax.process_count() == 1:
        return values
    found = multihost_utils.broadcast_one_to_all(np.array(list(values.values())))
    return dict(zip(values, map(float, found), strict=True))


def print_once(text: str) -> None:
    """Print a line, once."""
    if is_first():
        print(text, flush=True)


def check_shared(folder: Path) -> None:
    """Refuse a folder that is not the same one for all processes.

    Raises:
      UserError: what the first process writes there, this one does not see.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.frombuffer(os.urandom(4), np.uint32))
    token = folder / f".seen-by-all-{int(number[0])}"
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    barrier("token written")
    seen = token.exists()
    barrier("token looked for")
    if is_first():
        token.unlink()
    if not seen:
        raise UserError(
            f"--workdir={folder}: process {jax.process_index()} does not see what process 0 "
            "writes there; give a folder on a file system that all hosts share"
        )


def exit_process(code: int | str) -> NoReturn:
    """End this process as `sys.exit` does.

    One of several does not wait for the others, which may never come to where it waits: whoever
    started them ends them.
    """
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

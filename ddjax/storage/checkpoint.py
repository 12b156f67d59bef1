"""Checkpoints of a training: Orbax, with a fingerprint for each array.

Orbax does not detect flipped bits; the fingerprints do. They do not depend on the
devices, so a checkpoint continues on another number of them.
"""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ddjax.runtime import hosts, trees
from ddjax.runtime.errors import UserError
from ddjax.storage import files, model_folder
from ddjax.storage.fingerprint import fingerprints


class Damaged(UserError):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of one training run, newest last; a save in progress has no final name."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory.absolute()
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=self._options)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Save a pytree of arrays and the position in the data; returns once it is copied."""
        arrays = trees.flatten(state)
        about = {"position": position, "fingerprints": fingerprints(arrays)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
            ),
        )

    def restore(self, template: Any, which: str = "latest") -> tuple[Any, dict[str, Any]] | None:
        """The state in the form of `template` and the position, or None if nothing was saved.

        Args:
          template: pytree of arrays of the shapes, types and places that are expected.
          which: "latest", or "previous" for the one before. Then the latest is set aside, in
            another folder; once only, so that the same command goes on from there, and from what it
            has saved since, also in trainings that it begins. A damaged one is set aside in any
            case.

        Raises:
          UserError: the checkpoint is damaged or does not fit; it and the array are named.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            if which == "previous" and hosts.is_first():
                self._aside.mkdir(exist_ok=True)
            return None
        if which == "previous" and not self._went_back(steps[-1], template):
            if len(steps) < 2:
                raise UserError(
                    f"config.restore=previous: {self.directory} has no checkpoint before the "
                    f"latest; move {self.directory} aside to begin this training again"
                )
            self._set_aside(steps.pop())
        return self._read_whole(self.directory / str(steps[-1]), template)

    def _went_back(self, latest: int, template: Any) -> bool:
        """Whether this command has gone back or begun here already, and this one is intact."""
        if not self._aside.exists():
            return False
        try:
            self._read_whole(self.directory / str(latest), template)
        except Damaged:
            return False
        return True

    @property
    def _aside(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}_aside")

    def _set_aside(self, step: int) -> None:
        # While its folder has its name, Orbax saves no step before it.
        self._manager.close()
        hosts.barrier("read the checkpoints")
        if hosts.is_first():
            self._aside.mkdir(exist_ok=True)
            files.quarantine(self.directory / str(step), self._aside)
        hosts.barrier("set a checkpoint aside")
        self._manager = ocp.CheckpointManager(self.directory, options=self._options)

    def _read_whole(self, where: Path, template: Any) -> tuple[Any, dict[str, Any]]:
        arrays, about = self._read(where, template)
        for name, found in fingerprints(arrays).items():
            if found != about["fingerprints"].get(name):
                raise _damaged(where, f"{name} does not have its fingerprint")
        state = model_folder.fill(template, arrays, str(where), put=lambda array: array)
        return state, about["position"]

    def _read(self, where: Path, template: Any) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        wanted = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in trees.flatten(template).items()
        }
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(wanted), about=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(int(where.name), args=items)
            about = json.loads(json.dumps(restored["about"]))
            if not isinstance(about["fingerprints"], dict) or "position" not in about:
                raise ValueError("its fingerprints or data position are missing")
        except (jax.errors.JaxRuntimeError, PermissionError):
            raise  # out of memory, or not ours to read: the checkpoint may be whole
        except Exception as error:
            # Orbax, TensorStore and JSON each raise their own; all mean the same to a user.
            raise _damaged(where, str(error).split("\n")[0]) from error
        return restored["arrays"], about

    def wait(self) -> None:
        """Until the save in progress is done."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the save in progress, and end."""
        self.wait()
        self._manager.close()


def _damaged(where: Path, why: str) -> Damaged:
    return Damaged(
        f"checkpoint {where} is damaged: {why}; continue from the one before with "
        "--config.restore=previous"
    )

"""Training checkpoints: Orbax, with a digest for each array.

Orbax reads a flipped byte without a word; the digests catch it.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddjax import weights
from ddjax.errors import UserError


class Checkpoints:
    """The checkpoints of one training run, newest last; a save in progress has no final name."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Save a pytree of arrays and the position in the data; returns once it is copied."""
        arrays = {name: np.asarray(leaf) for name, leaf in weights.flatten(state).items()}
        about = {
            "position": position,
            "sha256": {name: weights.array_digest(array) for name, array in arrays.items()},
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
            ),
        )

    def restore(self, template: Any, which: str = "latest") -> tuple[Any, dict[str, Any]] | None:
        """The state in the form of `template` and the position, or None if nothing was saved.

        Args:
          template: pytree of the shapes and types that are expected.
          which: "latest", or "previous" for the one before.

        Raises:
          UserError: the checkpoint is damaged or does not fit; it and the array are named.
        """
        steps = sorted(self._manager.all_steps())
        if which == "previous":
            if len(steps) < 2:
                raise UserError(
                    f"config.restore=previous: {self.directory} has no checkpoint before the latest"
                )
            steps = steps[:-1]
        if not steps:
            return None
        where = self.directory / str(steps[-1])
        arrays, about = self._read(where, template)
        for name, array in arrays.items():
            if weights.array_digest(array) != about["sha256"].get(name):
                raise _damaged(where, f"{name} does not have its digest")
        return weights.fill(template, arrays, str(where)), about["position"]

    def _read(self, where: Path, template: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        names = weights.flatten(template)
        wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in names.items()}
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(wanted), about=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(int(where.name), args=items)
            about = json.loads(json.dumps(restored["about"]))
            if not isinstance(about["sha256"], dict) or "position" not in about:
                raise ValueError("its digests or data position are missing")
        except Exception as error:
            # Orbax, TensorStore and JSON each raise their own; all mean the same to a user.
            raise _damaged(where, str(error).split("\n")[0]) from error
        return {name: np.asarray(x) for name, x in restored["arrays"].items()}, about

    def close(self) -> None:
        """Wait for the save in progress."""
        self._manager.wait_until_finished()
        self._manager.close()


def _damaged(where: Path, why: str) -> UserError:
    return UserError(
        f"checkpoint {where} is damaged: {why}; continue from the one before with "
        "--config.restore=previous"
    )

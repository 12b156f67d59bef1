"""Folder of a set of images in the making: its statistics so far, and what is kept row by row.

Each process saves what it has seen itself, in a folder of its own below; whoever reads the set
merges them in order. A save is two files, one of the rows since the last save, one of all else; it
counts when all processes have it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from ddjax.data import npz
from ddjax.evaluation.making import Keep, Making
from ddjax.runtime import hosts
from ddjax.runtime.errors import UserError
from ddjax.storage import files


class SetFolder:
    """The folder of a set of images.

    Args:
      directory: of the set.
      total: images in it.
      keep: what is kept row by row.
    """

    def __init__(self, directory: Path, total: int, keep: Keep) -> None:
        self.directory, self.total, self.keep = directory, total, keep
        self._own = directory / f"host_{jax.process_index()}_of_{jax.process_count()}"

    @property
    def finished(self) -> bool:
        """Whether all processes of some run have saved the whole set."""
        return bool(self._finished_by())

    def resume(self) -> Making:
        """What there is to go on with: the last save that all processes have, or nothing yet.

        Raises:
          UserError: a file is damaged.
        """
        if not self.finished:
            done = max(set.intersection(*map(self._saves, self._hosts())), default=0)
            hosts.barrier(f"{self.directory} looked through")
            if done:
                return self._read(self._own, done)
            return Making(self.total, self.keep)
        return Making(self.total, self.keep, done=self.total)

    def save(self, making: Making) -> None:
        """Save what this process has seen; earlier saves go when all processes have this one."""
        rows, name = making.take_rows(), f"{making.done:010d}"
        self._write(self._own / f"rows_{name}.npz", rows)
        self._write(self._own / f"state_{name}.npz", making.arrays())
        hosts.barrier(f"{self.directory} saved")
        known = {f"state_{name}.npz", *(f"rows_{part:010d}.npz" for part in making.parts)}
        for path in self._own.glob("*_*.npz"):
            if path.name not in known:
                path.unlink()
        hosts.barrier(f"{self.directory} saves of before removed")

    def read(self) -> Making:
        """A finished set, of all processes: merged in their order.

        Raises:
          UserError: a file is damaged.
        """
        first, *others = (self._read(path, self.total) for path in self._finished_by())
        for other in others:
            first.merge(other)
        return first

    def rows(self, name: str) -> np.ndarray:
        """What a finished set has kept of each image under a name, in the order of the images.

        Raises:
          UserError: a file is damaged.
        """
        found = [part for path in self._finished_by() for part in self._parts(path, name)]
        index = np.concatenate([index for index, _ in found])
        return np.concatenate([rows for _, rows in found])[np.argsort(index)]

    def seen_by(self) -> list[np.ndarray]:
        """The numbers of the images that each process has seen of a finished set, in its order."""
        return [
            np.concatenate([numbers for _, numbers in self._parts(path, "number")])
            for path in self._finished_by()
        ]

    def _parts(self, host: Path, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        state = self._load(host / f"state_{self.total:010d}.npz")
        loaded = [self._load(host / f"rows_{part:010d}.npz", (f"{name}.index", name))
                  for part in state["parts"]]
        return [(part[f"{name}.index"], part[name]) for part in loaded if name in part]

    def _hosts(self, count: int | None = None) -> list[Path]:
        count = count or jax.process_count()
        return [self.directory / f"host_{i}_of_{count}" for i in range(count)]

    def _finished_by(self) -> list[Path]:
        """The folders of the processes that have saved all of the set; none if not all have."""
        found = (re.fullmatch(r"host_0_of_(\d+)", path.name) for path in
                 self.directory.glob("host_0_of_*"))
        for count in sorted(int(match[1]) for match in found if match):
            if all(self.total in self._saves(path) for path in self._hosts(count)):
                return self._hosts(count)
        return []

    @staticmethod
    def _saves(host: Path) -> set[int]:
        return {int(path.stem.removeprefix("state_")) for path in host.glob("state_*.npz")}

    def _read(self, host: Path, done: int) -> Making:
        return Making.of_arrays(self._load(host / f"state_{done:010d}.npz"), self.keep)

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        with files.atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def _load(self, path: Path, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as found:
                return {name: found[name] for name in names or found.files if name in found.files}
        except npz.UNREADABLE as error:
            raise UserError(
                f"{path} is damaged or missing ({error}); move {self.directory} aside and start "
                "the same command again"
            ) from None

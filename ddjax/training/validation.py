"""Validation curve of a training: scalars over steps, and the best model so far.

`validation.json` in the folder of a training has a row for each validation. A training that goes on
from a checkpoint drops the rows behind it and measures them again, so that the curve is that of a
training without a stop.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ddjax.method.protocols import Network
from ddjax.runtime import hosts
from ddjax.runtime.errors import UserError
from ddjax.storage import files, model_folder


@dataclasses.dataclass(frozen=True)
class Validation:
    """How a model is judged while it is trained.

    Attributes:
      measure: scalars of the averaged model.
      every: steps between validations; the last step has one too.
      about: what else the scalars depend on; a curve is not continued with another.
      keep_best: the scalar whose best model is kept at the end; "" keeps the last model.
      better: `max` or `min`, for `keep_best`.
    """

    measure: Callable[[Network], dict[str, float]]
    every: int
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep_best: str = ""
    better: Callable[..., float] = max


def read(directory: Path) -> dict[str, Any] | None:
    """The curve in the folder of a training, or None if there is none.

    Returns:
      "rows", each with "step" and the scalars; "kept", the step whose model was kept, None for the
      last; "about", see `Validation`.

    Raises:
      UserError: it is damaged.
    """
    path = directory / "validation.json"
    advice = f"move {path} aside; the curve then begins at the next validation"
    return files.read_json_with_digest(path, advice, ("rows", "kept", "about"))


class Curve:
    """The curve of a training that begins, or goes on, at a step.

    Args:
      directory: of the training; gets `validation.json`, and `best/STEP/` while it runs.
      kind: of the model.
      validation: None measures nothing.
      begin: the step.
      last: the step that it ends with.

    Raises:
      UserError: what is there was measured otherwise.
    """

    def __init__(
        self, directory: Path, kind: str, validation: Validation | None, begin: int, last: int
    ) -> None:
        self._directory, self._kind, self._last = directory, kind, last
        self._validation = validation
        self._rows: list[dict[str, float]] = []
        if validation is not None:
            there = read(directory)
            self._check(there)
            self._rows = [row for row in (there or {"rows": []})["rows"] if row["step"] <= begin]
            self._keep_only(row["step"] for row in self._rows)

    def _check(self, there: dict[str, Any] | None) -> None:
        now = self._validation.about
        if there is not None and there["about"] != now:
            path = self._directory / "validation.json"
            raise UserError(
                f"{path} was measured otherwise (there {there['about']}, now {now}); use those "
                f"settings, or move {path} aside"
            )

    def due(self, step: int) -> bool:
        """Whether the model is validated after so many steps."""
        v = self._validation
        return v is not None and (step % v.every == 0 or step == self._last)

    def measure(self, step: int, model: Network) -> dict[str, float]:
        """Validate a model, and keep it if it is the best; returns the scalars."""
        v, best = self._validation, self._best
        scalars = hosts.of_first(v.measure(model))
        self._rows.append({"step": step, **scalars})
        if v.keep_best:
            new, old = scalars[v.keep_best], best and best[v.keep_best]
            if best is None or (new != old and v.better(new, old) == new):
                model_folder.save(self._folder(step), self._kind, model)
                self._keep_only([step])
        self._write(kept=None)
        return scalars

    def chosen(self, last: Network) -> Network:
        """The model to be kept at the end: the best, or the last."""
        if self._validation is None or not self._validation.keep_best:
            return last
        step = self._best["step"]
        self._write(kept=step)
        return model_folder.load(self._folder(step), self._kind)

    def clear(self) -> None:
        """Remove what only a training in progress needs."""
        if hosts.is_first():
            shutil.rmtree(self._directory / "best", ignore_errors=True)

    @property
    def _best(self) -> dict[str, float] | None:
        """The row of the best model that is there; None if none is."""
        there = [row for row in self._rows if self._folder(row["step"]).exists()]
        v = self._validation
        if not v.keep_best or not there:
            return None
        return v.better(there, key=lambda row: row[v.keep_best])

    def _folder(self, step: int) -> Path:
        return self._directory / "best" / str(step)

    def _keep_only(self, steps: Iterable[int]) -> None:
        hosts.barrier("best models looked through")
        names = set(map(str, steps))
        if hosts.is_first():
            for folder in (self._directory / "best").glob("*"):
                if folder.name not in names:
                    shutil.rmtree(folder)
        hosts.barrier("best models removed")

    def _write(self, kept: int | None) -> None:
        if hosts.is_first():
            content = {"about": self._validation.about, "kept": kept, "rows": self._rows}
            files.write_json_with_digest(self._directory / "validation.json", content)

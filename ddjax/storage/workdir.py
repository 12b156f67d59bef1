"""Stage folders of a workdir: settings, completion, integrity of the output.

A folder holds `settings.json` (what decides its content), `config.json` (the whole config of the
run), `finished.json` once it is done, and its output. Nothing is ever overwritten or mixed: a
folder that was made by other settings, or from other inputs, is refused.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddjax.runtime import hosts
from ddjax.runtime.errors import UserError
from ddjax.storage import files

# Settings that decide nothing, though folders of earlier versions have recorded them.
RETIRED = ("pairs.batch",)


class Folder:
    """A folder of a workdir, which one stage of a run makes.

    Args:
      directory: of the folder.
      settings: keys and values that decide its content.
      output: patterns of the files that it is made for, from its directory.
      repair: how to make damaged output again; by default all of it.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        output: tuple[str, ...] = (),
        repair: str = "",
    ) -> None:
        self.directory = directory
        self._settings = settings
        self._output = output
        self._aside = f"move {directory} aside and start the same command again"
        self._repair = repair or self._aside

    @property
    def finished(self) -> dict[str, Any] | None:
        """What `finish` recorded, or None.

        Raises:
          UserError: the record is damaged.
        """
        path = self.directory / "finished.json"
        advice = f"move {path} aside and start the same command again"
        return files.read_json_with_digest(path, advice, ("summary", "seconds", "output"))

    def begin(self, config: Mapping[str, Any]) -> None:
        """Make the folder, or check that what is there was made by these settings.

        Args:
          config: the whole config, to be kept beside the settings.

        Raises:
          UserError: it was made by others; says which keys differ.
        """
        self._check_settings(ignore=())
        if hosts.is_first():
            self.directory.mkdir(parents=True, exist_ok=True)
            if not (self.directory / "config.json").exists():
                files.write_json_with_digest(self.directory / "config.json", config)
            if not (self.directory / "settings.json").exists():
                files.write_json(self.directory / "settings.json", self._settings)
        hosts.barrier(f"{self.directory} begun")

    def require(self, made_by: str) -> str:
        """Check a finished folder that this run only reads; returns the digest of its output.

        The seed may be another: `--config.stages=sample --config.seed=5` draws other images from
        the same student.

        Args:
          made_by: the stage that makes it, for messages.

        Raises:
          UserError: not there, not finished, made by other settings, or its output is damaged.
        """
        self._check_settings(ignore=("seed",))
        return self.check_finished(made_by)

    def check_finished(self, made_by: str) -> str:
        """As `require`, by whatever settings the folder was made."""
        if self.finished is None:
            raise UserError(
                f"{self.directory}: stage {made_by} has not finished; run it first "
                f"(add {made_by} to config.stages)"
            )
        self.check_output()
        return files.content_digest(self.finished["output"])

    def finish(self, summary: str, seconds: float, inputs: Mapping[str, str]) -> None:
        """Record that the output is intact, with its digests.

        Args:
          summary: a line about it.
          seconds: that it took.
          inputs: digests of what it was made from, by name.
        """
        if hosts.is_first():
            paths = sorted(path for each in self._output for path in self.directory.glob(each))
            output = {os.path.relpath(path, self.directory): files.digest(path) for path in paths}
            record = {"summary": summary, "seconds": round(seconds, 2), "inputs": dict(inputs),
                      "output": output}
            files.write_json_with_digest(self.directory / "finished.json", record)
        hosts.barrier(f"{self.directory} finished")

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """Refuse a finished folder that was made from other inputs than are there now.

        Raises:
          UserError: names the inputs that differ.
        """
        recorded = self.finished.get("inputs", {})  # folders of earlier versions have none
        other = [name for name, digest in inputs.items() if recorded.get(name, digest) != digest]
        if other:
            raise UserError(
                f"{self.directory} was made with another {' and '.join(other)} than is there now; "
                f"put that back, or {self._aside}"
            )

    def check_output(self) -> None:
        """Refuse a finished folder whose output is not what it was.

        Raises:
          UserError: names the files, and says how they are made again.
        """
        wrong = []
        for name, digest in self.finished["output"].items():
            path = Path(os.path.normpath(self.directory / name))
            if not path.exists():
                wrong.append(f"{path} is missing")
            elif files.digest(path) != digest:
                wrong.append(f"{path} is damaged, or another was put in its place")
        if wrong:
            raise UserError(f"{'; '.join(wrong)}; put back what was there, or {self._repair}")

    def _check_settings(self, ignore: tuple[str, ...]) -> None:
        path = self.directory / "settings.json"
        advice = f"put it back, or {self._aside}"
        recorded = files.read_json(path, advice)
        if recorded is None:
            left = [found.name for found in self.directory.glob("*")
                    if not found.name.startswith(".") and found.name != "config.json"]
            if left:
                raise UserError(f"{path} is missing beside what a stage has made; {advice}")
            return
        keys = sorted(recorded.keys() | self._settings.keys())
        different = [
            f"{key} (there {recorded.get(key)!r}, now {self._settings.get(key)!r})"
            for key in keys
            if key not in (*ignore, *RETIRED) and recorded.get(key) != self._settings.get(key)
        ]
        if different:
            ways = ["use those", "another --workdir"]
            if not self.finished:
                ways.append(f"move {self.directory} aside to begin the stage again")
            raise UserError(
                f"{self.directory} was made by other settings: {', '.join(different)}; "
                f"{', or '.join(ways)}"
            )


def read_config(directory: Path) -> dict[str, Any] | None:
    """The config that a folder was made with, or None if there is none.

    Raises:
      UserError: it is damaged.
    """
    path = directory / "config.json"
    return files.read_json_with_digest(path, f"move {path} aside and start the same command again")

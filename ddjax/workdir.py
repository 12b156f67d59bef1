"""The workdir: one folder a stage, with the settings that made it.

Nothing is ever overwritten or mixed: a stage whose folder was made by other settings is refused.
"""

import contextlib
import dataclasses
import json
import operator
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ddjax import files, hosts, parts
from ddjax.config import STAGES, Config
from ddjax.errors import UserError
from ddjax.methods import Method

# The sections of the config that decide what a stage makes, beside those of the stages it reads.
_SECTIONS = {
    "tokenizer": ("data", "tokenizer"),
    "teacher": ("data", "teacher"),
    "pairs": ("guidance", "flow", "pairs"),
    "distill": ("student", "distill"),
    "evaluate": ("data", "guidance", "flow", "student", "evaluate"),
    "sample": ("data", "guidance", "flow", "student", "sample"),
}

# What a stage is run for, from its folder: looked through each time before it counts as finished.
_MODEL = ("model/config.json", "model/weights.safetensors")
_OUTPUT = {
    "tokenizer": _MODEL,
    "teacher": _MODEL,
    "pairs": ("*.array_record",),
    "distill": _MODEL,
    "evaluate": ("../metrics.json", "../report.md"),
    "sample": ("images.npz",),
}

# Keys that change how a stage runs but not what comes out.
_NEUTRAL = ("log_every", "checkpoint_every", "keep", "directory")


def reads(config: Config, stage: str) -> list[str]:
    """The stages whose output a stage needs, in their order."""
    methods = {
        "evaluate": [Method.parse(name) for name in config.evaluate.methods],
        "sample": [config.sample_method()],
    }
    if stage in methods:
        found = {"tokenizer", *(name for method in methods[stage] for name in method.reads)}
        if stage == "evaluate":
            found.add("teacher")  # all distances are to its samples
        return [name for name in STAGES if name in found]
    return list(STAGES[: STAGES.index(stage)])


def settings(config: Config, stage: str) -> dict[str, Any]:
    """The keys and values that decide what a stage makes, flat: {"teacher.model.width": 96}.

    A model folder stands there by its digest: it may move, but not change.

    Raises:
      UserError: a model folder is missing.
    """
    tree = dataclasses.asdict(config)
    if not config.distill.perceptual:
        del tree["distill"]["perceptual_net"]
    flat = {"seed": config.seed}
    todo = [stage]
    for name in todo:
        if name in parts.given(config):
            section = parts.given(config)[name]
            flat.update({f"{section}.{key}": tree[section][key] for key in ("kind", "weights")})
            continue
        for section in _SECTIONS[name]:
            flat.update(_flatten(tree[section], section))
        if stage == "distill":
            flat.pop("student.split", None)  # how a student is read, not how it is trained
        todo += [earlier for earlier in reads(config, name) if earlier not in todo]
    if stage == "sample":
        flat["evaluate.batch"] = config.evaluate.batch  # with it goes what a teacher draws
    for key in [key for key in flat if key.endswith(".weights")]:
        where = key.removesuffix(".weights")
        section = config.student_model if where == "student" else operator.attrgetter(where)(config)
        if flat.pop(key):
            flat[key] = parts.check_weights(f"config.{key}", section)
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
        """What `finish` recorded, or None.

        Raises:
          UserError: the record is damaged.
        """
        path = self.directory / "finished.json"
        return files.read_vouched(path, f"move {path} aside and start the same command again")

    def begin(self) -> None:
        """Make the folder, or check that what is there was made by these settings.

        Raises:
          UserError: it was made by others; says which keys differ.
        """
        self._check(ignore=())
        if hosts.is_first() and not (self.directory / "settings.json").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            files.write_json(self.directory / "settings.json", self._settings)
        hosts.wait(f"{self.directory} begun")

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
        """Record that the output is whole, with its digests."""
        if hosts.is_first():
            patterns = _OUTPUT[self.name.split("/")[0]]
            paths = sorted(path for pattern in patterns for path in self.directory.glob(pattern))
            output = {os.path.relpath(path, self.directory): files.digest(path) for path in paths}
            record = {"summary": summary, "seconds": round(seconds, 2), "output": output}
            files.write_vouched(self.directory / "finished.json", record)
        hosts.wait(f"{self.directory} finished")

    def check_output(self) -> None:
        """Refuse a finished stage whose output is not what it was.

        Raises:
          UserError: names the files, and says how they are made anew.
        """
        wrong = []
        for name, digest in self.finished["output"].items():
            path = Path(os.path.normpath(self.directory / name))
            if not path.exists():
                wrong.append(f"{path} is missing")
            elif files.digest(path) != digest:
                wrong.append(f"{path} is damaged")
        if wrong:
            advice = f"move {self.directory} aside and start the same command again"
            if self.name == "pairs":
                advice = f"python -m ddjax.pairs repair {self.directory.parent}"
            raise UserError(f"{'; '.join(wrong)}; to make what is wrong anew: {advice}")

    def _check(self, ignore: tuple[str, ...]) -> None:
        path = self.directory / "settings.json"
        advice = f"put it back, or move {self.directory} aside and start the same command again"
        there = files.read_json(path, advice)
        if there is None:
            if any(not found.name.startswith(".") for found in self.directory.glob("*")):
                raise UserError(f"{path} is missing beside what a stage has made; {advice}")
            return
        keys = sorted(there.keys() | self._settings.keys())
        different = [
            f"{key} (there {there.get(key)!r}, now {self._settings.get(key)!r})"
            for key in keys
            if key not in ignore and there.get(key) != self._settings.get(key)
        ]
        if different:
            ways = ["use those", "another --workdir"]
            if not self.finished:
                ways.append(f"move {self.directory} aside to begin the stage anew")
            raise UserError(
                f"{self.directory} was made by other settings: {', '.join(different)}; "
                f"{', or '.join(ways)}"
            )


def seconds_before(root: Path, stage: str) -> float:
    """What the earlier stages of a workdir took together."""
    earlier = (Stage(root, name, {}).finished for name in STAGES[: STAGES.index(stage)])
    return sum(done["seconds"] for done in earlier if done)


def run_stage(stage: Stage, make: Callable[[], str]) -> None:
    """Run a stage unless it is finished; print one line about it.

    Raises:
      UserError: it was made by other settings, what it made is damaged, or another run makes it.
    """
    stage.begin()
    name, done = stage.name.split("/")[0], stage.finished
    if done is not None:
        stage.check_output()
        hosts.say(f"{name:<10} finished before: {done['summary']}")
        return
    start = time.perf_counter()
    first = hosts.is_first()
    with files.locked(stage.directory / ".lock") if first else contextlib.nullcontext():
        summary = make()
    seconds = time.perf_counter() - start
    stage.finish(summary, seconds)
    hosts.say(f"{name:<10} {summary}  ({seconds:.0f} s)")

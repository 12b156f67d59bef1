"""Suites: the numbers of an accelerator checked, then the published sizes measured on it.

A suite is cut into parts, the check and each config at each batch, whose results are saved as they
are done: the same command goes on where it was stopped. What fails takes nothing else with it. It
needs neither ml_collections nor what reads data.
"""

import concurrent.futures
import dataclasses
import functools
import gc
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddjax.benchmark import numerics, programs, published, report
from ddjax.benchmark.report import TRAINING
from ddjax.benchmark.timing import timed
from ddjax.config.schema import Config
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files

# Programs compiled at once: most of that is one thread each.
_COMPILED_AT_ONCE = 8
# Seconds after which a program has been timed often enough.
_ENOUGH = 4.0
# Tokens of a training step that are computed at once, rounded down to a power of two of images; so
# that VAR-d20 and the text-to-image XL fit on an H100.
_TRAINED_AT_ONCE = 6000
# Of a GPU's memory, for JAX; by default it takes three quarters.
_MEMORY = "0.9"


class Suite(NamedTuple):
    """What is checked and measured.

    Attributes:
      configs: by name, see `published.read`.
      checked: those whose flow map and refinement are checked.
      batches: images at once, in rounds through all configs, the most telling first.
      trained: those of them whose training step is measured too.
      tokens: of the check of the flow map.
      repeats: timed calls.
    """

    configs: tuple[str, ...]
    checked: tuple[str, ...]
    batches: tuple[tuple[int, ...], ...]
    trained: tuple[int, ...]
    tokens: int
    repeats: int


SUITES = {
    "gpu": Suite(
        ("llamagen:B", "var:d16", "llamagen:L", "var:d20", "llamagen_t2i:XL"),
        ("llamagen:B", "var:d16"), ((1, 128), (8, 32)), (32, 128), 8192, 5,
    ),
    "tiny": Suite(("llamagen:tiny",), ("var:tiny",), ((2,),), (2,), 64, 1),
}


def run(name: str, folder: Path, seconds: float, command: str) -> None:
    """Do the parts that the folder has no results of, and print all results.

    Args:
      name: of the suite.
      folder: for a JSON file of the check and of each config.
      seconds: no part is begun after so many.
      command: that is run, for the files.

    Raises:
      UserError: the folder has results of this device with other versions, or parts failed.
    """
    suite, end = SUITES[name], time.monotonic() + seconds
    if not any("MEM_FRACTION" in key for key in os.environ):
        os.environ["XLA_CLIENT_MEM_FRACTION"] = _MEMORY  # read when the first device is asked for
    with jax.set_mesh(sharding.one_device()):
        about = {**report.about(), "command": command}
        results = {one: Results(folder, one, about) for one in ("numerics", *suite.configs)}
        done = [
            _turn(suite, results[one], parts, end)
            for one, parts in [("numerics", ("check",))]
            + [(config, batches) for batches in suite.batches for config in suite.configs]
        ]
    for result in results.values():
        print(result.text(), end="\n\n")
    left, failed = map(sum, zip(*done, strict=True))
    if left:
        print(f"{left} parts are left; run the same command again")
    if failed:
        raise UserError(f"{failed} parts failed, as said above; the same command tries them again")


def _turn(
    suite: Suite, result: "Results", parts: tuple[str | int, ...], end: float
) -> tuple[int, int]:
    """Do those that there are no results of; how many are left, and how many failed.

    Args:
      suite: what is measured.
      result: of the check or of a config.
      parts: "check", or batches.
      end: by the monotonic clock; none is begun later.
    """
    left = failed = 0
    model = functools.cache(functools.partial(Measured, result.part))
    for part in parts:
        if result.has(part):
            continue
        if time.monotonic() > end:
            left += 1
            continue
        print(f"{result.part}, {part} ...", file=sys.stderr, flush=True)
        try:
            if part == "check":
                result.add(part, numerics.check(suite.checked, suite.tokens, images=2))
            else:
                result.add(part, model().at(part, suite.repeats, part in suite.trained))
        except Exception:
            traceback.print_exc()
            failed += 1
        gc.collect()  # models and states of a part lie in cycles with what was traced of them
    return left, failed


class Results:
    """A file of results, written part by part.

    Args:
      folder: that it is in.
      part: what it is of.
      about: device, versions and command.
    """

    def __init__(self, folder: Path, part: str, about: dict[str, Any]) -> None:
        device = re.sub(r"\W+", "_", about["device"].lower()).strip("_")
        self.part, self._path = part, folder / f"{part.replace(':', '_')}_{device}.json"
        self._found = files.read_json(self._path) or {**about, "parts": []}
        for key in ("jax", "flax"):
            if self._found.get(key) != about[key]:
                raise UserError(
                    f"{self._path} was made with {key} {self._found.get(key)}, here is "
                    f"{about[key]}; give another --output"
                )

    def has(self, part: str | int) -> bool:
        """Whether a part is there."""
        return part in self._found["parts"]

    def add(self, part: str | int, result: dict[str, Any]) -> None:
        """A part's result, whose rows go behind those that there are."""
        rows = self._found.get("rows", []) + result.pop("rows", [])
        self._found |= {**result, "parts": [*self._found["parts"], part]}
        if rows:
            # By the compiler's figures: the device keeps one peak, of all configs before too.
            peak = max(row.get("memory_mb", 0) for row in rows)
            self._found |= {"rows": rows, "peak_memory_mb": peak}
        files.write_json(self._path, self._found)

    def text(self) -> str:
        """A table of rows; the check as it is."""
        if "rows" in self._found:
            return report.table(self._found)
        return "\n".join(
            f"{key}: {value}" for key, value in self._found.items()
            if key not in ("parts", "command")
        )


class Measured:
    """A config's models, to be measured at one batch after another."""

    def __init__(self, name: str) -> None:
        self.config = published.read(name)
        self._conditions = programs.conditions(self.config)
        self._models, self._frozen = programs.load(self.config)

    def at(self, batch: int, repeats: int, trained: bool) -> dict[str, Any]:
        """The rows of a batch; what fails or does not fit says so in place of times.

        Args:
          batch: images at once.
          repeats: timed calls.
          trained: whether the training step is measured too.

        Raises:
          UserError: all failed.
        """
        config, models = self.config, self._models
        # Once, before threads ask for the text encoder all at the same time.
        rows = programs.training_rows(config, self._conditions, batch)
        pipe = programs.pipeline(config, models, self._conditions, batch, jax.local_devices()[:1])
        calls = programs.drawing(config, pipe)
        calls.pop("encoder", None)
        if trained:
            in_parts = _in_parts(config, batch)
            calls[TRAINING] = programs.training_step(in_parts, models, self._frozen, lambda: rows)
        compiled = _compile(list(calls.values()))
        found = [
            {"name": name, "batch": batch, "compile_seconds": seconds,
             **({"problem": problem} if problem else _measure(call, batch, repeats))}
            for (name, call), (seconds, problem) in zip(calls.items(), compiled, strict=True)
        ]
        if all("problem" in row for row in found):
            raise UserError(f"{config.name}, batch {batch}: {found[0]['problem']}")
        report.add_ratios(
            found, lambda _: programs.training_flops(config, models, self._frozen, rows)
        )
        return {**programs.described(config), "rows": found}


def _in_parts(config: Config, batch: int) -> Config:
    """With a training step of this batch that fits."""
    images = 1 << (_TRAINED_AT_ONCE // config.groups.length).bit_length() - 1
    parts = -(-batch // images)
    train = dataclasses.replace(config.distill.train, batch=batch, accumulate=parts)
    return dataclasses.replace(config, distill=dataclasses.replace(config.distill, train=train))


def _compile(calls: list[programs.Program]) -> list[tuple[float, str]]:
    """Compile all, several at once; the seconds each took there, and its problem, if any."""
    mesh = jax.sharding.get_mesh()

    def one(call: programs.Program) -> tuple[float, str]:
        begin = time.perf_counter()
        with jax.set_mesh(mesh):
            problem = _problem(lambda: call.ready)
        return time.perf_counter() - begin, problem

    with concurrent.futures.ThreadPoolExecutor(_COMPILED_AT_ONCE) as pool:
        return list(pool.map(one, calls))


def _measure(call: programs.Program, batch: int, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"memory_mb": call.memory() / 2**20}

    def run() -> None:
        found.update(timed(call, repeats, _ENOUGH))

    if problem := _problem(run):
        return {**found, "problem": problem}
    return {**found, "seconds_per_image": found["seconds"] / batch}


def _problem(run: Callable[[], Any]) -> str:
    """Run it; a line about what went wrong, "" if nothing did."""
    try:
        run()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return "out of memory"
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:200]}".split("\n")[0]
    return ""

"""Suites: the numbers of an accelerator checked, then the published sizes measured on it.

A suite is cut into parts, the check and each config at each batch, whose results are saved as they
are done: the same command goes on where it was stopped. It needs JAX, Flax, Optax and Orbax, and
neither ml_collections nor what reads data.
"""

import concurrent.futures
import functools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddjax.benchmark import numerics, programs, published, report
from ddjax.benchmark.report import TRAINING
from ddjax.benchmark.timing import timed
from ddjax.runtime import sharding
from ddjax.runtime.errors import UserError
from ddjax.storage import files

# Programs compiled at once: most of that is one thread each.
_COMPILED_AT_ONCE = 8
# Seconds after which a program has been timed often enough.
_ENOUGH = 4.0


class Suite(NamedTuple):
    """What is checked and measured.

    Attributes:
      configs: by name, see `published.read`.
      checked: those whose flow map and refinement are checked.
      batches: images at once, the most telling first.
      tokens: of the check of the flow map.
      repeats: timed calls.
    """

    configs: tuple[str, ...]
    checked: tuple[str, ...]
    batches: tuple[int, ...]
    tokens: int
    repeats: int


SUITES = {
    "gpu": Suite(
        ("llamagen:B", "var:d16", "llamagen:L", "var:d20", "llamagen_t2i:XL"),
        ("llamagen:B", "var:d16"), (1, 128, 8, 32), 8192, 5,
    ),
    "tiny": Suite(("llamagen:tiny",), ("var:tiny",), (2,), 64, 1),
}


def run(name: str, folder: Path, seconds: float, command: str) -> None:
    """Do the parts that the folder has no results of, and print all results.

    Args:
      name: of the suite.
      folder: for a JSON file of the check and of each config.
      seconds: no part is begun after so many.
      command: that is run, for the files.

    Raises:
      UserError: the folder has results of this device with other versions.
    """
    suite, end = SUITES[name], time.monotonic() + seconds
    with jax.set_mesh(sharding.one_device()):
        about = {**report.about(), "command": command}
        results = [Results(folder, part, about) for part in ("numerics", *suite.configs)]
        left = 0
        for result in results:
            model = functools.cache(functools.partial(Measured, result.part))
            for part in ("check",) if result.part == "numerics" else suite.batches:
                if result.has(part):
                    continue
                if time.monotonic() > end:
                    left += 1
                    continue
                print(f"{result.part}, {part} ...", file=sys.stderr, flush=True)
                if part == "check":
                    result.add(part, numerics.check(suite.checked, suite.tokens, images=2))
                else:
                    result.add(part, model().at(part, suite.repeats))
            jax.clear_caches()
    for result in results:
        print(result.text(), end="\n\n")
    if left:
        print(f"{left} parts are left; run the same command again")


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
            self._found |= {"rows": rows, "peak_memory_mb": report.peak_memory_mb()}
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

    def at(self, batch: int, repeats: int) -> dict[str, Any]:
        """The rows of a batch; what does not fit into the memory says so in place of times."""
        config, models = self.config, self._models
        pipe = programs.pipeline(config, models, self._conditions, batch, jax.local_devices()[:1])
        rows = functools.partial(programs.training_rows, config, self._conditions, batch)
        calls = programs.drawing(config, pipe)
        calls.pop("encoder", None)
        calls[TRAINING] = programs.training_step(config, models, self._frozen, rows)
        compiled = _compile(list(calls.values()))
        found = [
            {"name": name, "batch": batch, "compile_seconds": seconds,
             **(_measure(call, batch, repeats) if fits else {"problem": "out of memory"})}
            for (name, call), (seconds, fits) in zip(calls.items(), compiled, strict=True)
        ]
        report.add_ratios(found, lambda _: programs.training_flops(
            config, models, self._frozen, rows()
        ))
        return {**programs.described(config), "rows": found}


def _compile(calls: list[programs.Program]) -> list[tuple[float, bool]]:
    """Compile all, several at once; the seconds each took there, and whether it fits."""
    mesh = jax.sharding.get_mesh()

    def one(call: programs.Program) -> tuple[float, bool]:
        begin = time.perf_counter()
        with jax.set_mesh(mesh):
            fits = _fits(lambda: call.ready)
        return time.perf_counter() - begin, fits

    with concurrent.futures.ThreadPoolExecutor(_COMPILED_AT_ONCE) as pool:
        return list(pool.map(one, calls))


def _measure(call: programs.Program, batch: int, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"memory_mb": call.memory() / 2**20}

    def run() -> None:
        found.update(timed(call, repeats, _ENOUGH))

    if not _fits(run):
        return {**found, "problem": "out of memory"}
    return {**found, "seconds_per_image": found["seconds"] / batch}


def _fits(run: Callable[[], Any]) -> bool:
    """Run it; False where the device's memory does not suffice."""
    try:
        run()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return False
    return True

"""Rows of ddjax and of PyTorch with the same weights, timed in turns, in float32 on a CPU."""

import functools
import sys
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from ddjax.benchmark import programs
from ddjax.benchmark.against_torch import inception, llamagen, var, vq, weights
from ddjax.benchmark.timing import interleaved
from ddjax.config.schema import Config
from ddjax.method.sampling import Models, decode
from ddjax.models.inception import Inception, InceptionConfig
from ddjax.runtime.errors import UserError

# Teacher, student and tokenizer by the kind of the teacher.
_MODULES = {
    "llamagen": (llamagen.Teacher, llamagen.Student, vq.VQTokenizer),
    "var": (var.Teacher, var.Student, vq.MultiscaleTokenizer),
}
OURS, THEIRS, COMPILED = "ddjax", "PyTorch", "torch.compile"
_LAYOUTS = {THEIRS: torch.contiguous_format, "channels_last": torch.channels_last}
ROWS, FEATURES = ("teacher", "student pass", "decode"), "features"


class Row(NamedTuple):
    """What is compared, as functions without arguments by who does it.

    The first of each gives arrays; where draws at random make them differ, `same` is False.
    """

    name: str
    batch: int
    calls: dict[str, Callable[[], Any]]
    same: bool


def measure(
    config: Config, only: Container[str], batches: list[int], repeats: int, compiled: bool
) -> dict[str, Any]:
    """The config's rows.

    Args:
      config: of classes; computed in the dtype it says.
      only: those of `ROWS` to measure.
      batches: images at once.
      repeats: timed calls of each; the median counts.
      compiled: whether to time torch.compile of single passes too.

    Raises:
      UserError: the config has captions, or its models no PyTorch module here.
    """
    if config.has_captions or config.teacher.kind not in _MODULES:
        raise UserError(
            f"--against=torch has no modules for {config.name}; it compares LlamaGen and VAR of "
            "classes"
        )
    modules = Modules(config, programs.load(config)[0])
    rows = (row for batch in batches for row in modules.rows(batch, compiled) if row.name in only)
    return _timed(config.name, rows, repeats)


def measure_features(batches: list[int], repeats: int, compiled: bool) -> dict[str, Any]:
    """Inception's features, of images of 256 x 256; arguments as of `measure`.

    PyTorch's in its own layout, as pytorch-fid and torch-fidelity run it, and in channels_last.
    """
    net = Inception(InceptionConfig(resize="half_pixel"), rngs=nnx.Rngs(0))
    ours, w, rows = jax.jit(Inception.measure), inception.weights(net), []
    for batch in batches:
        images = np.random.default_rng(0).uniform(-1, 1, (batch, 256, 256, 3)).astype(np.float32)
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        calls = {OURS: functools.partial(ours, net, jnp.asarray(images))}
        for name, layout in _LAYOUTS.items():
            x = x.contiguous(memory_format=layout)
            calls[name] = functools.partial(inception.measure, inception.laid_out(w, layout), x)
        if compiled:
            calls[COMPILED] = functools.partial(
                torch.compile(inception.measure), *calls["channels_last"].args
            )
        rows.append(Row(FEATURES, batch, calls, same=True))
    return _timed("inception", rows, repeats)


def _timed(name: str, rows: Iterable[Row], repeats: int) -> dict[str, Any]:
    found = []
    for row in rows:
        print(f"{name}, {row.name}, batch {row.batch} ...", file=sys.stderr, flush=True)
        times = interleaved(row.calls, repeats)
        found.append({"name": row.name, "batch": row.batch, "by": times,
                      "largest_difference": difference(row) if row.same else None})
    return {"config": name, "rows": found}


class Modules:
    """Models of a config on both sides."""

    def __init__(self, config: Config, ours: Models) -> None:
        self.config, self.ours = config, ours
        sizes = config.teacher.model, config.teacher.model, config.tokenizer.model
        named = ours.teacher, ours.student, ours.tokenizer
        self.teacher, self.student, self.tokenizer = (
            weights.copy(model, module(size))
            for module, size, model in zip(_MODULES[config.teacher.kind], sizes, named, strict=True)
        )

    def rows(self, batch: int, compiled: bool) -> list[Row]:
        """Teacher, student's pass and decoder at a batch."""
        config = self.config
        pipe = programs.pipeline(
            config, self.ours, programs.conditions(config), batch, jax.local_devices()[:1]
        )
        length, code_dim = config.groups.length, config.teacher.model.code_dim
        eps = np.random.default_rng(0).normal(size=(batch, length, code_dim)).astype(np.float32)
        labels = np.arange(batch) % config.teacher.model.num_classes
        x, classes = torch.from_numpy(eps), torch.from_numpy(labels)
        drawn = programs.drawing(config, pipe)
        own = {
            "student pass": functools.partial(_pass, self.ours.student, eps, labels),
            "decode": functools.partial(_decode, self.ours.tokenizer, eps),
        }
        theirs = {"student pass": (self.student, (x, classes)), "decode": (self.tokenizer, (x,))}
        rows = [Row("teacher", batch, {
            OURS: drawn["teacher_ar"],
            THEIRS: functools.partial(self.teacher.generate, classes, config.guidance),
        }, same=False)]
        for name, (module, arguments) in theirs.items():
            calls = {OURS: own[name], THEIRS: functools.partial(module, *arguments)}
            if compiled:
                calls[COMPILED] = functools.partial(torch.compile(module), *arguments)
            rows.append(Row(name, batch, calls, same=True))
        return rows


@jax.jit
def _pass(student: Any, eps_BLC: jax.Array, labels_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    return student(eps_BLC, 0, labels_B)


@jax.jit
def _decode(tokenizer: Any, x_BLC: jax.Array) -> jax.Array:
    """Channels first, as PyTorch has them."""
    return decode(tokenizer, x_BLC).transpose(0, 3, 1, 2)


def difference(row: Row) -> float:
    """The largest between both sides' numbers, in units of the largest number."""
    ours, theirs = (
        np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(row.calls[name]())])
        for name in (OURS, THEIRS)
    )
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: seconds a call, least and largest in brackets."""
    names = list(dict.fromkeys(name for result in results for row in result["rows"]
                               for name in row["by"]))
    lines = [
        f"| model | what | batch | {', s | '.join(names)}, s | PyTorch / ddjax | difference |",
        f"| --- | --- | ---: | {'---: | ' * len(names)}---: | ---: |",
    ]
    for result in results:
        for row in result["rows"]:
            cells = [_cell(row["by"].get(name)) for name in names]
            ratio = row["by"][THEIRS]["seconds"] / row["by"][OURS]["seconds"]
            apart = row["largest_difference"]
            lines.append(
                f"| {result['config']} | {row['name']} | {row['batch']} | {' | '.join(cells)} | "
                f"{ratio:.2f} | {'' if apart is None else f'{apart:.0e}'} |"
            )
    return "\n".join(lines)


def _cell(times: dict[str, float] | None) -> str:
    return "" if times is None else (
        f"{times['seconds']:.3g} ({times['least']:.3g} to {times['largest']:.3g})"
    )

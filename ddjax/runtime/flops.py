"""Floating-point operations: how many a function needs, and how many a device can do."""

import functools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddjax.runtime import sharding
from ddjax.runtime.devices import DEVICES


def count(function: Callable, *args: Any, **kwargs: Any) -> float:
    """Operations in the matrix products and convolutions of one call; see `operations`.

    Args:
      function: what is counted. Of a jitted one, or a partial of one, the trace is kept: a call
        with arguments of the same shapes does not trace it again.
      *args: its arguments.
      **kwargs: its arguments.
    """
    if isinstance(function, functools.partial):
        kwargs, args, function = function.keywords | kwargs, function.args + args, function.func
    traced = function if hasattr(function, "trace") else jax.jit(function)
    return operations(traced.trace(*args, **kwargs).jaxpr.jaxpr)


def operations(jaxpr: Any) -> float:
    """Operations in the matrix products and convolutions; the rest is small beside it.

    Counted on the abstract program, each scanned body as often as it runs, which XLA's own cost
    analysis does not do. Nothing is computed.
    """
    return _total(jaxpr, _operations_of)


def traffic(jaxpr: Any) -> float:
    """Bytes that the matrix products and convolutions read and write, counted likewise.

    What an ideal compiler must move through memory; one that fuses less moves more.
    """
    return _total(jaxpr, _bytes_of)


def inner(equation: Any) -> Iterator[Any]:
    """The programs inside an equation: bodies of scans, branches, calls."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _total(jaxpr: Any, cost: Callable[[Any], float]) -> float:
    return sum(_total_one(equation, cost) for equation in jaxpr.eqns)


def _total_one(equation: Any, cost: Callable[[Any], float]) -> float:
    name = equation.primitive.name
    if name in ("dot_general", "conv_general_dilated"):
        return cost(equation)
    totals = [_total(jaxpr, cost) for jaxpr in inner(equation)]
    if name == "cond":
        return max(totals)
    return equation.params.get("length", 1) * sum(totals) if name == "scan" else sum(totals)


def _operations_of(equation: Any) -> float:
    left, right = (operand.aval for operand in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = np.prod([left.shape[axis] for axis in contracted])
    else:
        numbers = equation.params["dimension_numbers"]
        terms = right.size / right.shape[numbers.rhs_spec[0]]
    return 2.0 * equation.outvars[0].aval.size * terms


def _bytes_of(equation: Any) -> float:
    arrays = [value.aval for value in (*equation.invars, *equation.outvars)]
    return float(sum(array.size * array.dtype.itemsize for array in arrays))


@functools.cache
def peak() -> tuple[float, str]:
    """Peak operations a second of one device, and where the number is from.

    Returns:
      The data sheet's for known accelerators, else the rate of a large product, measured now.
    """
    device = jax.local_devices()[0]
    for known in DEVICES.values():
        if re.search(rf"{known.kind}(?!\d)", device.device_kind):  # no L40 is an L4
            return known.peak, "data sheet, bfloat16"
    size, seconds = 1024, []
    with jax.set_mesh(sharding.one_device()):
        a = sharding.replicate(jnp.ones((size, size)))
        product = jax.jit(lambda a: a @ a)
        product(a).block_until_ready()
        for _ in range(5):
            begin = time.perf_counter()
            product(a).block_until_ready()
            seconds.append(time.perf_counter() - begin)
    return 2.0 * size**3 / min(seconds), f"measured, float32 product of {size} x {size}"

"""How many floating-point operations a function needs, and how many a device can do."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Dense bfloat16 products a second by the makers' data sheets; the key is in JAX's device kind.
PEAKS = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
}


def count(function: Callable, *args: Any) -> float:
    """Operations in the matrix products and convolutions of one call; the rest is small beside it.

    Counted on the abstract program, each scanned body as often as it runs, which XLA's own cost
    analysis does not do. Nothing is computed.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_one(equation) for equation in jaxpr.eqns)


def _count_one(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * np.prod([shape[axis] for axis in contracted])
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * kernel.size / outputs
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


@functools.cache
def peak(device: jax.Device) -> tuple[float, str]:
    """Operations a second at the most, and where the number is from.

    Returns:
      The data sheet's for known accelerators, else the rate of a large product, measured now.
    """
    for kind, value in PEAKS.items():
        if kind in device.device_kind:
            return value, "data sheet, bfloat16"
    size = 1024
    a = jax.device_put(jnp.ones((size, size)), device)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2.0 * size**3 / min(seconds), f"measured, float32 product of {size} x {size}"

"""Memory estimate of a function, from its abstract program; nothing is allocated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ddjax.runtime import flops

# Calls, whose bodies are a part of the program.
CALLS = frozenset({
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
})
# Other views of the same bytes, or read in another order by a product.
VIEWS = frozenset({"copy", "copy_p", "expand_dims", "reshape", "squeeze", "transpose"})
# Computed element by element where they are read: a compiler fuses them and keeps their inputs.
FUSED = frozenset({
    "abs", "add", "add_any", "and", "broadcast_in_dim", "ceil", "clamp", "convert_element_type",
    "cos", "div", "eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "iota",
    "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not",
    "one_minus_square", "or", "pow", "rsqrt", "select_n", "sign", "sin", "slice", "split", "sqrt",
    "square", "stop_gradient", "sub", "tanh", "xor",
})
# These do not compute what they read: it has to be there.
WHOLE = frozenset({"dot_general", "conv_general_dilated", "scan", "while", "cond", "sort", "top_k"})


class Value(NamedTuple):
    """A value by the buffers that it is computed from; a stored one is its buffer."""

    buffers: frozenset[int] = frozenset()
    stored: bool = True


ARGUMENT = Value()


def size(tree: Any) -> int:
    """Bytes of the arrays in a tree, which may be shapes and types only."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def peak(jaxpr: Any) -> int:
    """Most bytes of intermediate values that are alive at once, in the order of the program.

    Arguments and results are not among them. Between forward and backward pass these are the
    activations. What is fused stands for the values it is computed from; what a scan carries is
    updated in place.
    """
    program = _Program()
    results = program.run(jaxpr, [ARGUMENT] * len(jaxpr.invars))
    return program.peak(_union(results))


def _union(values: list[Value]) -> frozenset[int]:
    return frozenset().union(*(value.buffers for value in values))


class _Program:
    """Every buffer that a program makes, with the times of its making and of its last use."""

    def __init__(self) -> None:
        self.clock = 0
        self.sizes: list[int] = []
        self.made: list[int] = []
        self.last: list[int] = []

    def peak(self, results: frozenset[int]) -> int:
        change = np.zeros(self.clock + 2, np.int64)
        for buffer, size in enumerate(self.sizes):
            if buffer not in results:
                change[self.made[buffer]] += size
                change[self.last[buffer] + 1] -= size
        return int(np.cumsum(change).max())

    def run(self, jaxpr: Any, inputs: list[Value]) -> list[Value]:
        values = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(variables: list[Any]) -> list[Value]:
            is_literal = [hasattr(variable, "val") for variable in variables]
            return [
                ARGUMENT if literal else values.get(variable, ARGUMENT)
                for variable, literal in zip(variables, is_literal, strict=True)
            ]

        for equation in jaxpr.eqns:
            results = self._one(equation, read(equation.invars))
            values.update(zip(equation.outvars, results, strict=True))
        return read(jaxpr.outvars)

    def _one(self, equation: Any, operands: list[Value]) -> list[Value]:
        name, bodies = equation.primitive.name, list(flops.inner(equation))
        if name in CALLS:
            return self.run(bodies[0], operands)
        if name in VIEWS:
            return operands
        if name in FUSED:
            return [Value(_union(operands), stored=False)] * len(equation.outvars)
        self.clock += 1
        for buffer in _union(operands):
            self.last[buffer] = self.clock
        if name in WHOLE:
            operands = [
                operand if operand.stored else self._make(size(variable.aval))
                for operand, variable in zip(operands, equation.invars, strict=True)
            ]
        self._make(max(map(peak, bodies), default=0))
        results = [self._make(size(variable.aval)) for variable in equation.outvars]
        return self._in_place(equation, operands, results) if name == "scan" else results

    def _make(self, size: int) -> Value:
        self.sizes.append(size)
        self.made.append(self.clock)
        self.last.append(self.clock)
        return Value(frozenset({len(self.sizes) - 1}))

    def _in_place(
        self, equation: Any, operands: list[Value], results: list[Value]
    ) -> list[Value]:
        """What a scan carries stays in the buffer that it begins in, but for an argument's."""
        consts, carried = _consts_and_carried(equation.params)
        begins = operands[consts : consts + carried]
        for begin, end in zip(begins, results, strict=False):
            if begin.buffers:
                self.sizes[next(iter(end.buffers))] = 0
        return [
            begin if begin.buffers else end for begin, end in zip(begins, results, strict=False)
        ] + results[carried:]


def _consts_and_carried(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the first operands of a scan every turn reads, and how many it carries."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = params["ft_in"].unpack()  # from jax 0.12 on
    return len(consts.vals), len(carried.vals)

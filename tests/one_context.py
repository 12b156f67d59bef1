"""MLIR context: one for all programs of a process, by importing this.

JAX makes one for each program, in a quarter of the time that a small one takes to compile.
"""

import functools

from jax._src.interpreters import mlir

mlir.make_ir_context = functools.cache(mlir.make_ir_context)

"""Compilation cache: compiled programs that the next run finds."""

import os
from pathlib import Path

import jax


def keep_programs(root: Path) -> None:
    """Keep compiled programs in a workdir, unless the environment says where.

    So that what goes on after a stop, or runs again, compiles nothing again.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compilation_cache"))

"""Pytree paths: leaves by their names."""

from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, "trunk/norm/scale"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: tuple) -> str:
    """The name of a leaf; NNX's wrapper around an array does not show in it."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")

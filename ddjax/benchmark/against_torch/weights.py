"""Weights of a ddjax model in a PyTorch module whose parts have the same names."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ddjax.runtime import trees

# Modules of ours whose arrays have a leading axis of layers; lists of modules in PyTorch.
_STACKS = ("blocks", "noise_data")
# How an array of ours is named and turned, by its own name and its number of axes.
_TURNED = {
    ("kernel", 2): ("weight", (1, 0)),
    ("kernel", 4): ("weight", (3, 2, 0, 1)),
    ("scale", 1): ("weight", (0,)),
    ("embedding", 2): ("weight", (0, 1)),
}


def copy(model: Any, module: nn.Module) -> nn.Module:
    """Fill a module; returns it, ready for inference.

    Args:
      model: of ddjax; what the module has no place for is left out.
      module: every one of its parameters must have a namesake there.
    """
    found = dict(_arrays(model))
    state = {name: torch.from_numpy(found[name].copy()) for name in module.state_dict()}
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def _arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in trees.flatten(model).items():
        parts, array = path.split("/"), np.asarray(leaf)
        stack = next((i for i, part in enumerate(parts) if part in _STACKS), None)
        layers = [(parts, array)] if stack is None else [
            ([*parts[: stack + 1], str(i), *parts[stack + 1 :]], row) for i, row in enumerate(array)
        ]
        for names, values in layers:
            yield ".".join(names), values
            name, axes = _TURNED.get((names[-1], values.ndim), (names[-1], range(values.ndim)))
            yield ".".join([*names[:-1], name]), values.transpose(axes)

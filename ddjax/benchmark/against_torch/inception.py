"""Inception-v3 of 2015 in PyTorch, block by block; weights have the names of pytorch-fid's file."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ddjax.models.inception import SIDE

_PARTS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}

Weights = dict[str, Tensor]


def weights(model: Any) -> Weights:
    """Those of our Inception."""
    found = {"fc.weight": _tensor(model.fc.kernel[...].T)}
    for name, unit in model.units.items():
        found[f"{name}.conv.weight"] = _tensor(unit.kernel[...].transpose(3, 2, 0, 1))
        found |= {f"{name}.bn.{theirs}": _tensor(getattr(unit, ours)[...])
                  for ours, theirs in _PARTS.items()}
    return found


def laid_out(w: Weights, layout: torch.memory_format) -> Weights:
    """With convolutions in a layout, which their outputs then have too."""
    return {name: x.contiguous(memory_format=layout) if x.ndim == 4 else x for name, x in w.items()}


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def measure(w: Weights, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`network` of images [B, 3, H, W] in [-1, 1], resized as pytorch-fid does."""
    x = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return network(w, x)


def _unit(
    w: Weights, name: str, x: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0
) -> Tensor:
    x = functional.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
    norm = (w[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, *norm, eps=1e-3).relu_()


def _mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _a(w: Weights, name: str, x: Tensor) -> Tensor:
    b = f"{name}.branch"
    five = _unit(w, b + "5x5_2", _unit(w, b + "5x5_1", x), padding=2)
    double = _unit(w, b + "3x3dbl_2", _unit(w, b + "3x3dbl_1", x), padding=1)
    double = _unit(w, b + "3x3dbl_3", double, padding=1)
    return torch.cat([_unit(w, b + "1x1", x), five, double, _unit(w, b + "_pool", _mean(x))], 1)


def _b(w: Weights, name: str, x: Tensor) -> Tensor:
    b = f"{name}.branch"
    double = _unit(w, b + "3x3dbl_2", _unit(w, b + "3x3dbl_1", x), padding=1)
    return torch.cat([
        _unit(w, b + "3x3", x, 2), _unit(w, b + "3x3dbl_3", double, 2),
        functional.max_pool2d(x, 3, 2),
    ], 1)


def _c(w: Weights, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    b, row, column = f"{name}.branch", (0, 3), (3, 0)
    one = _unit(w, b + "1x1", x)
    seven = _unit(w, b + "7x7_2", _unit(w, b + "7x7_1", x), padding=row)
    seven = _unit(w, b + "7x7_3", seven, padding=column)
    double = _unit(w, b + "7x7dbl_1", x)
    for i, padding in ((2, column), (3, row), (4, column), (5, row)):
        double = _unit(w, f"{b}7x7dbl_{i}", double, padding=padding)
    return torch.cat([one, seven, double, _unit(w, b + "_pool", _mean(x))], 1), one


def _d(w: Weights, name: str, x: Tensor) -> Tensor:
    b = f"{name}.branch"
    three = _unit(w, b + "3x3_2", _unit(w, b + "3x3_1", x), 2)
    seven = _unit(w, b + "7x7x3_2", _unit(w, b + "7x7x3_1", x), padding=(0, 3))
    seven = _unit(w, b + "7x7x3_3", seven, padding=(3, 0))
    return torch.cat([three, _unit(w, b + "7x7x3_4", seven, 2), functional.max_pool2d(x, 3, 2)], 1)


def _e(w: Weights, name: str, x: Tensor, pooled: Tensor) -> Tensor:
    b, row, column = f"{name}.branch", (0, 1), (1, 0)
    three = _unit(w, b + "3x3_1", x)
    double = _unit(w, b + "3x3dbl_2", _unit(w, b + "3x3dbl_1", x), padding=1)
    return torch.cat([
        _unit(w, b + "1x1", x),
        _unit(w, b + "3x3_2a", three, padding=row), _unit(w, b + "3x3_2b", three, padding=column),
        _unit(w, b + "3x3dbl_3a", double, padding=row),
        _unit(w, b + "3x3dbl_3b", double, padding=column),
        _unit(w, b + "_pool", pooled),
    ], 1)


@torch.no_grad()
def network(w: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled [B, 2048], spatial [B, 2023] and logits [B, 1008] without their bias.

    Args:
      w: in the names of pytorch-fid's file.
      x: [B, 3, 299, 299], as the network reads them.
    """
    x = _unit(w, "Conv2d_1a_3x3", x, 2)
    x = _unit(w, "Conv2d_2a_3x3", x)
    x = _unit(w, "Conv2d_2b_3x3", x, padding=1)
    x = _unit(w, "Conv2d_3b_1x1", functional.max_pool2d(x, 3, 2))
    x = functional.max_pool2d(_unit(w, "Conv2d_4a_3x3", x), 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _a(w, name, x)
    x, ones = _b(w, "Mixed_6a", x), {}
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x, ones[name] = _c(w, name, x)
    x = _d(w, "Mixed_7a", x)
    x = _e(w, "Mixed_7b", x, _mean(x))
    x = _e(w, "Mixed_7c", x, functional.max_pool2d(x, 3, 1, 1))
    pooled = x.mean(dim=(2, 3))
    spatial = ones["Mixed_6d"][:, :7]
    return pooled, spatial.permute(0, 2, 3, 1).flatten(1), pooled @ w["fc.weight"].T

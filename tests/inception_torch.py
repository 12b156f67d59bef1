"""Inception-v3 of 2015 in plain PyTorch, written block by block: what ours is compared with.

The state is a dictionary in the names of pytorch-fid's file.
"""

import math

import numpy as np
import torch
from torch.nn import functional

_STEM = (
    ("Conv2d_1a_3x3", 3, 32, 3), ("Conv2d_2a_3x3", 32, 32, 3), ("Conv2d_2b_3x3", 32, 64, 3),
    ("Conv2d_3b_1x1", 64, 80, 1), ("Conv2d_4a_3x3", 80, 192, 3),
)


def _shapes_a(inner, pool):
    return (
        ("1x1", inner, 64, 1), ("5x5_1", inner, 48, 1), ("5x5_2", 48, 64, 5),
        ("3x3dbl_1", inner, 64, 1), ("3x3dbl_2", 64, 96, 3), ("3x3dbl_3", 96, 96, 3),
        ("_pool", inner, pool, 1),
    )


def _shapes_c(c):
    row, column = (1, 7), (7, 1)
    return (
        ("1x1", 768, 192, 1),
        ("7x7_1", 768, c, 1), ("7x7_2", c, c, row), ("7x7_3", c, 192, column),
        ("7x7dbl_1", 768, c, 1), ("7x7dbl_2", c, c, column), ("7x7dbl_3", c, c, row),
        ("7x7dbl_4", c, c, column), ("7x7dbl_5", c, 192, row), ("_pool", 768, 192, 1),
    )


def _shapes_e(inner):
    return (
        ("1x1", inner, 320, 1),
        ("3x3_1", inner, 384, 1), ("3x3_2a", 384, 384, (1, 3)), ("3x3_2b", 384, 384, (3, 1)),
        ("3x3dbl_1", inner, 448, 1), ("3x3dbl_2", 448, 384, 3),
        ("3x3dbl_3a", 384, 384, (1, 3)), ("3x3dbl_3b", 384, 384, (3, 1)),
        ("_pool", inner, 192, 1),
    )


_MIXED = {
    "5b": _shapes_a(192, 32), "5c": _shapes_a(256, 64), "5d": _shapes_a(288, 64),
    "6a": (
        ("3x3", 288, 384, 3), ("3x3dbl_1", 288, 64, 1), ("3x3dbl_2", 64, 96, 3),
        ("3x3dbl_3", 96, 96, 3),
    ),
    "6b": _shapes_c(128), "6c": _shapes_c(160), "6d": _shapes_c(160), "6e": _shapes_c(192),
    "7a": (
        ("3x3_1", 768, 192, 1), ("3x3_2", 192, 320, 3), ("7x7x3_1", 768, 192, 1),
        ("7x7x3_2", 192, 192, (1, 7)), ("7x7x3_3", 192, 192, (7, 1)), ("7x7x3_4", 192, 192, 3),
    ),
    "7b": _shapes_e(1280), "7c": _shapes_e(2048),
}


def state(divisor=1, seed=0):
    """Random weights and running statistics; all channels but the image's are divided."""
    generator = torch.Generator().manual_seed(seed)

    def between(low, high, size):
        return low + (high - low) * torch.rand(size, generator=generator)

    layers = [*_STEM, *(
        (f"Mixed_{block}.branch{name}", *sizes)
        for block, units in _MIXED.items() for name, *sizes in units
    )]
    tensors = {}
    for name, inner, outer, kernel in layers:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        inner, outer = inner if inner == 3 else inner // divisor, outer // divisor
        gain = (2 / (inner * height * width)) ** 0.5
        tensors |= {
            f"{name}.conv.weight": gain * torch.randn(
                (outer, inner, height, width), generator=generator
            ),
            f"{name}.bn.weight": between(0.5, 1.5, outer),
            f"{name}.bn.bias": between(-0.2, 0.4, outer),
            f"{name}.bn.running_mean": between(-0.3, 0.3, outer),
            f"{name}.bn.running_var": between(0.5, 1.5, outer),
        }
    return tensors | {
        "fc.weight": 0.05 * torch.randn((1008, 2048 // divisor), generator=generator),
        "fc.bias": between(-1, 1, 1008),
    }


def _unit(w, name, x, stride=1, padding=0):
    x = functional.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
    norm = (w[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, *norm, eps=1e-3).relu_()


def _mean(x):
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _a(w, name, x):
    b = f"{name}.branch"
    five = _unit(w, b + "5x5_2", _unit(w, b + "5x5_1", x), padding=2)
    double = _unit(w, b + "3x3dbl_2", _unit(w, b + "3x3dbl_1", x), padding=1)
    double = _unit(w, b + "3x3dbl_3", double, padding=1)
    return torch.cat([_unit(w, b + "1x1", x), five, double, _unit(w, b + "_pool", _mean(x))], 1)


def _b(w, name, x):
    b = f"{name}.branch"
    double = _unit(w, b + "3x3dbl_2", _unit(w, b + "3x3dbl_1", x), padding=1)
    return torch.cat([
        _unit(w, b + "3x3", x, 2), _unit(w, b + "3x3dbl_3", double, 2),
        functional.max_pool2d(x, 3, 2),
    ], 1)


def _c(w, name, x):
    b, row, column = f"{name}.branch", (0, 3), (3, 0)
    one = _unit(w, b + "1x1", x)
    seven = _unit(w, b + "7x7_2", _unit(w, b + "7x7_1", x), padding=row)
    seven = _unit(w, b + "7x7_3", seven, padding=column)
    double = _unit(w, b + "7x7dbl_1", x)
    for i, padding in ((2, column), (3, row), (4, column), (5, row)):
        double = _unit(w, f"{b}7x7dbl_{i}", double, padding=padding)
    return torch.cat([one, seven, double, _unit(w, b + "_pool", _mean(x))], 1), one


def _d(w, name, x):
    b = f"{name}.branch"
    three = _unit(w, b + "3x3_2", _unit(w, b + "3x3_1", x), 2)
    seven = _unit(w, b + "7x7x3_2", _unit(w, b + "7x7x3_1", x), padding=(0, 3))
    seven = _unit(w, b + "7x7x3_3", seven, padding=(3, 0))
    return torch.cat([three, _unit(w, b + "7x7x3_4", seven, 2), functional.max_pool2d(x, 3, 2)], 1)


def _e(w, name, x, pooled):
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
def network(w, x):
    """Pooled, spatial and logits without bias, of inputs [B, 3, 299, 299] as the net reads them."""
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


def bilinear(images, height, width, half_pixel):
    """Images [B, height, width, C] of [B, H, W, C], float64: pixel by pixel, by the definition."""
    images = np.asarray(images, np.float64)
    found = np.empty((len(images), height, width, images.shape[3]))
    for y in range(height):
        top, bottom, down = _taps(y, images.shape[1], height, half_pixel)
        for x in range(width):
            left, right, along = _taps(x, images.shape[2], width, half_pixel)
            upper = images[:, top, left] * (1 - along) + images[:, top, right] * along
            lower = images[:, bottom, left] * (1 - along) + images[:, bottom, right] * along
            found[:, y, x] = upper * (1 - down) + lower * down
    return found


def _taps(i, size, wanted, half_pixel):
    place = max((i + 0.5) * size / wanted - 0.5, 0) if half_pixel else i * size / wanted
    first = math.floor(place)
    return first, min(first + 1, size - 1), place - first
